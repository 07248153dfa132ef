"""Classes by their names and by their numbers, and which of the two the labels of a file are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from adaptzip.errors import BaseModelError, CheckpointError
from adaptzip.models.texts.example import Label

By = Literal["each", "names", "numbers"]
"""Numbers as names of classes, or as their numbers from 0; "each" as what each one can be."""

_SHOWN_CLASSES = 20
_BEGINNING = re.compile(r"\s*\d+\s+\S")
_FLAGS: Mapping[str, bool] = {"true": True, "false": False}


def check_names(config: Any) -> None:
    """Refuse names of classes that do not say which output each is.

    Raises:
        BaseModelError: if `id2label` has not a name of its own for each output, or `label2id` says otherwise.
    """
    names: Mapping[int, str] = config.id2label
    if sorted(names) != list(range(config.num_labels)):
        found = ", ".join(map(str, sorted(names)[:_SHOWN_CLASSES]))
        raise BaseModelError(
            f"config.json: id2label names the outputs {found}, expected 0 to {config.num_labels - 1}",
            hint="give each output of the model a name in id2label, by its number from 0",
        )
    twice = next((name for name in names.values() if list(names.values()).count(name) > 1), None)
    if twice is not None:
        raise BaseModelError(
            f"config.json: id2label calls several outputs {twice!r}", hint="give each output a name of its own"
        )
    for name, place in (getattr(config, "label2id", None) or {}).items():
        own = [index for index, other in names.items() if other == name]
        if own and place not in own:
            raise BaseModelError(
                f"config.json: label2id says that {name!r} is output {place}, and id2label that it is {own[0]}",
                hint="mend the one that is wrong",
            )


def by_which(labels: Sequence[Label], classes: Sequence[str]) -> By:
    """How numbers among labels are read: one reading must hold for all. Texts and flags are names where there are such.

    Raises:
        CheckpointError: if both readings hold and differ, or some labels need the one and some the other.
    """
    different = [label for _, label in dict.fromkeys((type(label), label) for label in labels)]
    texts = [label for label in different if isinstance(label, str) and by_name(label, classes) is not None]
    numbers = [label for label in different if _may_be_number(label) and label not in texts]
    written = [label for label in numbers if isinstance(label, str)]
    if written and any(_differ(label, classes) for label in texts):
        # Of digits in quotes some are names, and some can be nothing but numbers.
        raise _mixed([*texts, *written], classes, "are some names and some numbers of")
    if not any(_differ(label, classes) for label in numbers):
        return "each"
    names, indices = (all(read(label, classes) is not None for label in numbers) for read in (number_name, by_number))
    if names != indices:
        return "names" if names else "numbers"
    raise _mixed(numbers, classes, "may be names or numbers of" if names else "are some names and some numbers of")


def _mixed(labels: Iterable[Label], classes: Sequence[str], what: str) -> CheckpointError:
    shown = sorted({str(label) for label in labels})
    one = next(label for label in shown if _differ(label, classes))
    name, number = classes[number_name(one, classes) or 0], by_number(one, classes)
    other = "no class" if number is None else repr(classes[number])
    return CheckpointError(
        f"the labels {', '.join(shown[:_SHOWN_CLASSES])} {what} the classes {shown_classes(classes)}: {one} is the "
        f"class called {name!r}, or number {one}, which is {other}",
        hint=f'write all of them as names in quotes: "{name}" in a .jsonl, """{name}""" in a .csv',
    )


def class_of(label: Label, classes: Sequence[str], by: By) -> int | None:
    """The class that a label is; None where there is none."""
    name = by_name(label, classes)
    if name is not None and (isinstance(label, str | bool) or by != "numbers"):
        return name
    named = None if by == "numbers" else number_name(label, classes)
    return by_number(label, classes) if named is None else named


def by_name(label: Label, classes: Sequence[str]) -> int | None:
    """A text as the class of that name, with blanks around it or without; true and false in any case of letters."""
    flag = _flag(label)
    for written, names in ((str(label), list(classes)), (str(label).strip(), [name.strip() for name in classes])):
        if written in names:
            return _only([place for place, name in enumerate(names) if name == written])
    return None if flag is None else _only([place for place, name in enumerate(classes) if _flag(name) == flag])


def number_name(label: Label, classes: Sequence[str]) -> int | None:
    """A number as the class that is called by it, however either is written: 2, 2.0 or 02, or 2 of "2 stars"."""
    exact = by_name(label, classes)
    if exact is not None or not _may_be_number(label):
        return exact
    return _only([place for place, name in enumerate(classes) if _number_in(name, classes) == float(label)])


def _number_in(name: str, classes: Sequence[str]) -> float | None:
    """The number that a class is called by; what a name begins with counts where all of them begin with one."""
    if _may_be_number(name):
        return float(name)
    begun = [_BEGINNING.match(other) for other in classes]
    return float(name.split()[0]) if all(begun) else None


def by_number(label: Label, classes: Sequence[str]) -> int | None:
    """Whole numbers from 0, which some programs write as 2.0; of two classes, True is 1 and False is 0."""
    flag = _flag(label)
    if flag is not None:
        return int(flag) if len(classes) == 2 else None
    number = float(label) if _may_be_number(label) else math.nan
    return int(number) if number.is_integer() and 0 <= number < len(classes) else None


def _differ(label: Label, classes: Sequence[str]) -> bool:
    """Whether a label is one class by name, and another by number."""
    name = number_name(label, classes)
    return name is not None and _may_be_number(label) and by_number(label, classes) not in (None, name)


def _flag(label: Label) -> bool | None:
    return _FLAGS.get(str(label).strip().casefold()) if isinstance(label, str | bool) else None


def _may_be_number(label: Label) -> bool:
    try:
        return not isinstance(label, bool) and math.isfinite(float(label))
    except ValueError:
        return False


def _only(places: Sequence[int]) -> int | None:
    return places[0] if len(places) == 1 else None


def shown_classes(classes: Sequence[str]) -> str:
    """Names of classes, as messages show them."""
    return ", ".join(classes[:_SHOWN_CLASSES]) + (", ..." if len(classes) > _SHOWN_CLASSES else "")
