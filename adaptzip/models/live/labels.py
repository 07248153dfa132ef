"""Labels in numbers: classes by name or number, several classes, scores, and one class for each word."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from adaptzip.errors import CheckpointError, UsageError
from adaptzip.models.live.running import LoadedModel
from adaptzip.models.texts.classes import By, by_which, check_names, class_of, shown_classes
from adaptzip.models.texts.example import Example, Label


@dataclass(frozen=True)
class Reading:
    """How the labels of a file are read.

    Attributes:
        by: numbers as the classes' own names, or as their numbers from 0; "each" as what each one can be.
        hot: lists hold a 1 or a 0 for every class, and do not name the classes that are there.
    """

    by: By = "each"
    hot: bool = False


def fitted(loaded: LoadedModel, examples: Sequence[Example], *, given: bool = False) -> LoadedModel:
    """The model, which is one of several labels where the data has lists of them and its configuration says nothing.

    Args:
        given: whether the user named the kind, which then holds.

    Raises:
        CheckpointError: if every list has one class, which a classifier of one class a text may be labelled with, too.
    """
    lists = [example.label for example in examples if isinstance(example.label, tuple)]
    unsaid = getattr(loaded.config, "problem_type", None) is None
    if given or loaded.kind != "classifier" or not lists or not unsaid:
        return loaded
    one = all(len(label) == 1 or _is_hot(label, len(loaded.classes)) and sum(map(float, label)) == 1 for label in lists)
    if one:
        raise CheckpointError(
            f"every list of labels, such as {list(lists[0])}, has one class: the model may be for one class a text or "
            "for several, and its config.json has no problem_type",
            hint="say which: `kind='classifier'` or `kind='multilabel'`",
        )
    return replace(loaded, kind="multilabel")


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
            hint="drop `label_field=`; what completes a prompt is named with `completion_field=`",
        )
    if loaded.kind not in ("classifier", "multilabel", "tokens"):
        return Reading()
    if labels:
        check_names(loaded.config)
    known = loaded.classes
    lists = [label for label in labels if isinstance(label, tuple)]
    single = [label for label in labels if not isinstance(label, tuple)]
    if loaded.kind == "multilabel":
        _check_single(single, len(known))
    hot = loaded.kind != "tokens" and bool(lists) and all(_is_hot(label, len(known)) for label in lists)
    if hot and single:
        raise CheckpointError(
            f"some labels are lists of a 1 or a 0 for every class, and some are not, such as {single[0]!r}",
            hint="label all texts the same way",
        )
    if hot and loaded.kind == "multilabel" and len(known) == 2 and all(tuple(label) == (0, 1) for label in lists):
        raise CheckpointError(
            f"the labels [0, 1] may name both of the classes {shown_classes(known)}, or say that the second alone is "
            "there",
            hint="write the classes that are there by their names",
        )
    parts = single if hot else [*single, *(part for label in lists for part in label)]
    return Reading(by_which(parts, known), hot)


def _is_hot(label: tuple[Label, ...], classes: int) -> bool:
    return len(label) == classes and all(_is_bit(part) for part in label)


def _is_bit(label: Label) -> bool:
    return not isinstance(label, str) and label in (0, 1)


def _check_single(labels: Sequence[Label], classes: int) -> None:
    """Refuse what may say of one class alone whether it is there, as a column for each class does."""
    if labels and classes > 1 and all(_is_bit(label) for label in labels):
        raise CheckpointError(
            f"the labels {', '.join(sorted({str(label) for label in labels}))} may be numbers of the model's {classes} "
            "classes, or say whether one class is there",
            hint="give each text a list of its classes, or of a 1 or 0 for every class: [1, 0, 1]",
        )


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
                hint="name the field of the texts to be written with `label_field=` or `completion_field=`",
            )
        return () if target is None else loaded.encode_target(example, str(target), longest)
    if label is None:
        return ()
    if loaded.kind == "classifier":
        return (_class(_only_one(label, loaded.classes, example), loaded.classes, example, reading),)
    if loaded.kind == "multilabel":
        return _several(label, loaded.classes, example, reading)
    return _scores(label, loaded.outputs, example) if loaded.kind == "scores" else ()


def _only_one(label: Label | tuple[Label, ...], classes: Sequence[str], example: Example) -> Label:
    """The one class of a list, which may have a 1 at its place."""
    if not isinstance(label, tuple):
        return label
    if len(label) == 1:
        return label[0]
    if _is_hot(label, len(classes)) and sum(map(float, label)) == 1:
        return classes[[bool(part) for part in label].index(True)]
    raise CheckpointError(
        f"{list(label)}, the label of the text {example.start}, is more than one class, or none",
        hint="give one class a text; `kind='multilabel'` is for several, `kind='scores'` for numbers",
    )


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
    if reading.hot or len(classes) == 1 and _is_hot(parts, 1):
        return tuple(int(part) for part in parts)
    named = [_class(part, classes, example, reading) for part in parts]
    if len(set(named)) < len(named):
        raise CheckpointError(
            f"{list(parts)}, the label of the text {example.start}, names a class twice",
            hint=f"give the classes that are there, or in every row a list of {len(classes)} numbers that are 1 or 0",
        )
    return tuple(int(place in named) for place in range(len(classes)))


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
    found = class_of(label, classes, reading.by)
    if found is None:
        raise _not_a_class(label, classes, example)
    return found


def _not_a_class(label: Label, classes: Sequence[str], example: Example) -> CheckpointError:
    hint = f"label with the names of classes, or with their numbers from 0 to {len(classes) - 1}"
    if isinstance(label, float) and not label.is_integer():
        hint += "; numbers as they are need `kind='scores'`"
    return CheckpointError(
        f"{label!r}, the label of the text {example.start}, is none of the classes {shown_classes(classes)}",
        hint=f"{hint}; a text without a label has null or an empty cell",
    )
