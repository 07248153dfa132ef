"""Labels in numbers: classes by name or number, several classes, scores, and one class for each word."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from adaptzip.calibration.encoding import Example, Label
from adaptzip.calibration.models import LoadedModel
from adaptzip.errors import CheckpointError, UsageError

_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class Reading:
    """How the labels of a file are read.

    Attributes:
        by: numbers as the classes' own names, or as their numbers from 0; "each" as what each one can be.
        hot: lists hold a 1 or a 0 for every class, and do not name the classes that are there.
    """

    by: Literal["each", "names", "numbers"] = "each"
    hot: bool = False


def fitted(loaded: LoadedModel, examples: Sequence[Example]) -> LoadedModel:
    """The model, which is one of several labels where the data has lists of them and its configuration says nothing."""
    listed = any(isinstance(example.label, tuple) for example in examples)
    unsaid = getattr(loaded.config, "problem_type", None) is None
    return replace(loaded, kind="multilabel") if loaded.kind == "classifier" and listed and unsaid else loaded


def reading_of(loaded: LoadedModel, examples: Iterable[Example]) -> Reading:
    """How all labels of a file are to be read.

    Raises:
        CheckpointError: if numbers may be both the classes' names and their numbers, or some must be the one and some
            the other.
        UsageError: if there are labels that the model has no use for.
    """
    labels = [example.label for example in examples if example.label is not None]
    if labels and loaded.kind in ("causal", "encoder"):
        raise UsageError(
            f"a model for {loaded.kind} has no use for labels",
            hint="drop --label-field; the completion of a prompt is read from the field completion",
        )
    if loaded.kind not in ("classifier", "multilabel", "tokens"):
        return Reading()
    known = loaded.classes
    lists = [label for label in labels if isinstance(label, tuple)]
    hot = loaded.kind == "multilabel" and all(_is_hot(label, len(known)) for label in lists)
    single = [label for label in labels if not isinstance(label, tuple)]
    parts = single if hot else [*single, *(part for label in lists for part in label)]
    return Reading(_by(parts, known), hot)


def _is_hot(label: tuple[Label, ...], classes: int) -> bool:
    return len(label) == classes and all(not isinstance(part, str) and part in (0, 1) for part in label)


def _by(labels: Sequence[Label], known: Sequence[str]) -> Literal["each", "names", "numbers"]:
    """Texts and flags are names where there are such; of numbers one reading must hold for all."""
    numbers = [label for label in labels if not isinstance(label, str | bool)]
    both = [(_by_name(label, known), _by_number(label, known)) for label in numbers]
    if not any(name is not None and index is not None and name != index for name, index in both):
        return "each"
    names, indices = (all(pair[place] is not None for pair in both) for place in (0, 1))
    if names == indices:
        found = ", ".join(sorted({str(label) for label in numbers})[:_SHOWN_CLASSES])
        what = "may be names or numbers of" if names else "are some names and some numbers of"
        raise CheckpointError(
            f"the labels {found} {what} the classes {_shown(known)}",
            hint="write names in quotes in a .jsonl",
        )
    return "names" if names else "numbers"


def labels_of(loaded: LoadedModel, example: Example, longest: int, reading: Reading) -> tuple[float, ...]:
    """A text's label in numbers (`Encoded.labels`); of words see `word_labels`.

    Raises:
        CheckpointError: if it is none of the model's.
    """
    label = example.label
    if loaded.kind == "seq2seq":
        target = example.cell or (example.completion if label is None else label)
        if isinstance(target, tuple | bool):
            raise CheckpointError(
                f"{target!r}, the label of the text {example.start}, is not a text to be written",
                hint="name the field of the texts to be written with --label-field or --completion-field",
            )
        return () if target is None else loaded.encode_target(example, str(target), longest)
    if label is None:
        return ()
    if loaded.kind == "classifier":
        if isinstance(label, tuple):
            raise _not_a_class(str(list(label)), loaded.classes, example)
        return (_class(label, loaded.classes, example, reading),)
    if loaded.kind == "multilabel":
        return _several(label, loaded.classes, example, reading)
    return _scores(label, loaded.outputs, example) if loaded.kind == "scores" else ()


def word_labels(loaded: LoadedModel, example: Example, words: int, reading: Reading) -> tuple[int, ...]:
    """The class of each word of a text.

    Raises:
        CheckpointError: if there is not one for each.
    """
    label = example.label
    labels = label if isinstance(label, tuple) else tuple(str(label).split())
    if len(labels) != words:
        raise CheckpointError(
            f"the text {example.start} has {words} words and {len(labels)} labels",
            hint="give one label for each word between blanks, or lists of words and labels",
        )
    return tuple(_class(one, loaded.classes, example, reading) for one in labels)


def _several(
    label: Label | tuple[Label, ...], classes: Sequence[str], example: Example, reading: Reading
) -> tuple[int, ...]:
    """1 for each class that is there, 0 for the others."""
    parts = label if isinstance(label, tuple) else (label,)
    if reading.hot and isinstance(label, tuple):
        return tuple(int(part) for part in parts)
    there = {_class(part, classes, example, reading) for part in parts}
    return tuple(int(place in there) for place in range(len(classes)))


def _scores(label: Label | tuple[Label, ...], outputs: int, example: Example) -> tuple[float, ...]:
    parts = label if isinstance(label, tuple) else (label,)
    try:
        found = tuple(float(part) for part in parts)
    except ValueError:
        found = ()
    if len(found) != outputs or not all(map(math.isfinite, found)):
        what = "a number" if outputs == 1 else f"a list of {outputs} numbers"
        raise CheckpointError(
            f"{label!r}, the label of the text {example.start}, is not {what}",
            hint="the model puts out scores, which labels are compared with",
        )
    return found


def _class(label: Label, classes: Sequence[str], example: Example, reading: Reading) -> int:
    """A class by its name, or else by its number."""
    label = label.strip() if isinstance(label, str) else label
    name, index = _by_name(label, classes), _by_number(label, classes)
    by_number = reading.by == "numbers" and not isinstance(label, str | bool)
    found = index if by_number or name is None else name
    if found is None:
        raise _not_a_class(label, classes, example)
    return found


def _by_name(label: Label, classes: Sequence[str]) -> int | None:
    """True and False may be written in any case."""
    if isinstance(label, bool):
        fitting = [place for place, name in enumerate(classes) if name.casefold() == str(label).casefold()]
        return fitting[0] if len(fitting) == 1 else None
    name = str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
    return classes.index(name) if name in classes else None


def _by_number(label: Label, classes: Sequence[str]) -> int | None:
    """Whole numbers, which some programs write as 2.0."""
    try:
        number = float(label)
    except ValueError:
        flags = {"true": 1.0, "false": 0.0}
        number = flags.get(str(label).casefold(), math.nan)
    return int(number) if number.is_integer() and 0 <= number < len(classes) else None


def _shown(classes: Sequence[str]) -> str:
    return ", ".join(classes[:_SHOWN_CLASSES]) + (", ..." if len(classes) > _SHOWN_CLASSES else "")


def _not_a_class(label: Label, classes: Sequence[str], example: Example) -> CheckpointError:
    return CheckpointError(
        f"{label!r}, the label of the text {example.start}, is none of the classes {_shown(classes)}",
        hint=f"label with the names of classes, or with their numbers from 0 to {len(classes) - 1}",
    )
