"""Rows of a file as examples: which fields are the text, a second text, a completion, words, messages and the label."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from adaptzip.calibration.encoding import Example, Label
from adaptzip.calibration.texts import TEXT_KEYS, Record, read_records
from adaptzip.errors import AdaptzipWarning, CheckpointError, UsageError

PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
)
"""Fields that are known to be two texts that belong together."""
_COMPLETION = ("prompt", "completion")
_LISTS = ("messages", "tokens", "words")
_OTHERS = ("answer", "response", "output", "instruction")
"""Texts as well, which are left out only where a field is named."""
_KNOWN = tuple(dict.fromkeys((*TEXT_KEYS, *(name for pair in PAIRS for name in pair), *_COMPLETION, *_LISTS, *_OTHERS)))


@dataclass(frozen=True)
class Fields:
    """Where a record has what; None looks for the usual names.

    Attributes:
        text: the text, a list of words, or messages.
        pair: the second text of a pair.
        label: the label; None reads none.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


def read_examples(
    path: Path, *, text_field: str | None = None, pair_field: str | None = None, label_field: str | None = None
) -> tuple[Example, ...]:
    """The examples of a .jsonl, .csv or .txt file, in its order; empty ones are left out, with a warning.

    Args:
        text_field: where the text is, or a list of words or messages; None looks for `TEXT_KEYS`, `PAIRS`, a prompt
            with its completion, messages, tokens or words.
        pair_field: where the second text of a pair is.
        label_field: where the label is: a text, a number, or a list of these. None reads no labels.

    Raises:
        CheckpointError: if the file can't be read or is malformed, a field is missing, or holds something else, or
            several texts are found of which one would be used.
        UsageError: if a second text is named and no first.
    """
    if pair_field is not None and text_field is None:
        raise UsageError("a second text is named and no first", hint="name both: --text-field and --text-pair-field")
    fields = Fields(text_field, pair_field, label_field)
    records = read_records(path)
    found = [_example(record, fields) for record in records]
    kept = tuple(example for example in found if example is not None)
    if not kept:
        raise CheckpointError(f"{path}: all of its {len(found)} texts are empty", hint="name the field of the texts")
    if label_field is not None and all(example.label is None for example in kept):
        raise CheckpointError(
            f"{path}: none of its {len(kept)} texts has a label in {label_field!r}", hint="name the field of the labels"
        )
    if len(kept) < len(found):
        _warn(f"{path}: {len(found) - len(kept)} of {len(found)} texts are empty and left out")
    unread = _unread(records[0], fields)
    if unread is not None:
        _warn(f"{path}: {unread!r} goes with {text_field!r} and is not read; drop --text-field to read both")
    return kept


def _warn(message: str) -> None:
    warnings.warn(message, AdaptzipWarning, stacklevel=3)


def _example(record: Record, fields: Fields) -> Example | None:
    """None where there is no text in it."""
    label = None if fields.label is None else _label(record, fields.label)
    first, second, completes = _names(record, fields)
    value = record.value(first)
    other = None if second is None else record.value(second)
    if isinstance(value, list):
        return _of_list(record, first, value, other, label)
    text = _text(record, first)
    if second is None:
        return Example(text, label) if text.strip() else None
    follows = _text(record, second)
    if completes:
        return Example(text, label, completion=follows) if follows.strip() else None
    return Example(text, label, pair=follows) if text.strip() or follows.strip() else None


def _names(record: Record, fields: Fields) -> tuple[str, str | None, bool]:
    """The field of the text, the one that goes with it, and whether that completes it."""
    if fields.text is not None:
        return fields.text, fields.pair, False
    present = [name for name in _KNOWN if name != fields.label and _is_text(record.fields.get(name))]
    for first, second in (_COMPLETION, *PAIRS):
        if set(present) == {first, second}:
            return first, second, (first, second) == _COMPLETION
    if len(present) > 1:
        raise CheckpointError(
            f"{record.place}: has texts in {' and '.join(map(repr, present))}",
            hint="name the one to read with --text-field, and the second of a pair with --text-pair-field",
        )
    usable = [name for name in present if name in (*TEXT_KEYS, *_LISTS)]
    return (usable[0] if usable else record.text_name()), None, False


def _is_text(value: object) -> bool:
    return isinstance(value, str | list)


def _unread(record: Record, fields: Fields) -> str | None:
    """The known partner of a text that was named alone."""
    if fields.text is None or fields.pair is not None:
        return None
    partners = [second for first, second in (_COMPLETION, *PAIRS) if first == fields.text and second != fields.label]
    return next((name for name in partners if isinstance(record.fields.get(name), str | list)), None)


def _text(record: Record, field: str) -> str:
    """A text, or "" where there is none."""
    value = record.value(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CheckpointError(f"{record.place}: {field!r} is not a text", hint="name the field of a text")
    half = next((character for character in value if "\ud800" <= character <= "\udfff"), None)
    if half is not None:
        raise CheckpointError(
            f"{record.place}: {field!r} holds half of a character, \\u{ord(half):x}",
            hint="the text was cut in the middle of it; remove that half",
        )
    return value


def _of_list(
    record: Record, field: str, value: list[Any], follows: object, label: Label | tuple[Label, ...] | None
) -> Example | None:
    """Words, or messages, which may have more messages that complete them."""
    if all(isinstance(item, str) for item in value) and follows is None:
        words = tuple(value)
        for word in words:
            _text(Record(record.place, {field: word}), field)
        return Example(" ".join(words), label, words=words) if any(word.strip() for word in words) else None
    messages = [*value, *(follows if isinstance(follows, list) else [])]
    if not all(_is_message(item) for item in messages) or not (follows is None or isinstance(follows, list)):
        raise CheckpointError(
            f"{record.place}: {field!r} is not a text, nor a list of words or messages",
            hint="a message is an object with a role and its content",
        )
    if follows is not None:
        before = len(value)
    else:
        before = len(messages) - 1 if messages and messages[-1]["role"] == "assistant" else 0
    contents = [_text(Record(record.place, item), "content") for item in messages]
    # The texts of the prompt tell conversations apart.
    text = "\n".join(contents[:before] or contents)
    return Example(text, label, messages=tuple(messages), prompt=before) if text.strip() else None


def _is_message(item: object) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("role"), str) and isinstance(item.get("content"), str)


def _label(record: Record, field: str) -> Label | tuple[Label, ...] | None:
    value = record.value(field)
    if value is None or value == "":
        return None
    if isinstance(value, list):
        return tuple(_one_label(record, field, part) for part in value)
    return _one_label(record, field, value)


def _one_label(record: Record, field: str, value: object) -> Label:
    if isinstance(value, str) and not record.typed and value.isdecimal() and str(int(value)) == value:
        return int(value)
    if isinstance(value, str | int) or isinstance(value, float) and isfinite(value):
        return value
    raise CheckpointError(
        f"{record.place}: {field!r} is not a label",
        hint="a label is a text or a number, or a list of these",
    )
