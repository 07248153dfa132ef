"""Rows of a file as examples: a text, a second text, a completion, words or messages, and the label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptzip.errors import CheckpointError, warn
from adaptzip.models.texts.cells import label_in, list_in, whole
from adaptzip.models.texts.chats import content_of, messages_of, up_to_answer
from adaptzip.models.texts.example import Example, Label
from adaptzip.models.texts.fields import (
    CHATS,
    WORDS,
    Fields,
    Layout,
    layouts,
    partners,
    text_fields,
    together_in,
    unread_texts,
)
from adaptzip.models.texts.record import Record
from adaptzip.models.texts.records import read_records


def read_examples(
    path: Path,
    *,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
    label_field: str | None = None,
) -> tuple[Example, ...]:
    """The examples of a .jsonl, .json, .csv, .tsv or .txt file, in its order; empty ones are left out, with a warning.

    Args:
        text_field: where the text is, or a list of words or messages; None looks for `TEXT_KEYS`, `PAIRS`, a prompt
            with its completion, messages, conversations, tokens or words.
        pair_field: where the second text of a pair is.
        completion_field: where the text, or the messages, are that complete the first.
        label_field: where the label is: a text, a number, or a list of these. None reads no labels.

    Raises:
        CheckpointError: if the file can't be read or is malformed, a field is missing, or holds something else, or
            several texts are found of which one would be used.
        UsageError: if a second text or a completion is named and no first, or a field for two things.
    """
    fields = Fields(text_field, pair_field, completion_field, label_field)
    records = read_records(path)
    texts = text_fields(records, label_field) if text_field is None else []
    rows = zip(records, layouts(records, fields, texts), strict=True)
    found = [_example(record, layout, fields) for record, layout in rows]
    kept = tuple(example for example in found if example is not None)
    if not kept:
        raise CheckpointError(f"{path}: all of its {len(found)} texts are empty", hint="name the field of the texts")
    if label_field is not None and all(example.label is None for example in kept):
        raise CheckpointError(
            f"{path}: none of its {len(kept)} texts has a label in {label_field!r}", hint="name the field of the labels"
        )
    if len(kept) < len(found):
        _warn(f"{path}: {len(found) - len(kept)} of {len(found)} texts are empty and left out")
    for name in unread_texts(records, texts, label_field) if text_field is None else ():
        _warn(f"{path}: {name!r} is not read; name it with `text_field=` or `pair_field=` where it is a text")
    unread = _unread(records, fields)
    if unread is not None:
        _warn(f"{path}: {unread!r} goes with {text_field!r} and is not read: {_to_read(records, unread)}")
    return kept


def _warn(message: str) -> None:
    warn(message)


def _unread(records: Sequence[Record], fields: Fields) -> str | None:
    """The known partner of a text that was named without it."""
    if fields.text is None or fields.pair is not None:
        return None
    known = partners(fields.text)
    read = (fields.completion, fields.label)
    return next(
        (
            name
            for record in records
            for name, value in record.fields.items()
            if name.casefold() in known and name not in read and isinstance(value, str | list) and value
        ),
        None,
    )


def _to_read(records: Sequence[Record], unread: str) -> str:
    """What to do about the partner of a text that was named without it."""
    together = any(layout.second == unread for layout in together_in(records, text_fields(records, None)))
    return "drop `text_field=` to read both" if together else "write both into one field where the text is made of both"


def _example(record: Record, layout: Layout, fields: Fields) -> Example | None:
    """None where there is no text in it."""
    label, cell = (None, None) if fields.label is None else label_in(record, fields.label)
    value = _value(record, layout.first)
    other = None if layout.second is None else _value(record, layout.second)
    _check_whole(record, layout, value, other)
    if isinstance(value, list):
        return _of_list(record, layout, value, other, label)
    text = _text(record, layout.first)
    if layout.second is None:
        return Example(text, label, cell=cell) if text.strip() else None
    follows = _text(record, layout.second)
    if layout.completes:
        return Example(text, label, completion=follows, cell=cell) if follows.strip() else None
    return Example(text, label, pair=follows, cell=cell) if text.strip() or follows.strip() else None


def _value(record: Record, field: str) -> object:
    """What a field holds; a list that is written in a text, where its name says that it is one, is that list."""
    value = record.value(field)
    if isinstance(value, str) and field.casefold() in (*WORDS, *CHATS):
        found = list_in(value)
        return value if found is None else found
    return value


def _check_whole(record: Record, layout: Layout, value: object, other: object) -> None:
    """Refuse half of what belongs together."""
    if layout.second is not None and (value is None) != (other is None):
        names = (layout.first, layout.second)
        lacking, held = names if value is None else names[::-1]
        raise CheckpointError(
            f"{record.place}: has {held!r} and no {lacking!r}, which is null", hint="fill it in, or drop the row"
        )


def _text(record: Record, field: str) -> str:
    """A text, or "" where there is none."""
    value = record.value(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CheckpointError(f"{record.place}: {field!r} is not a text", hint="name the field of a text")
    return whole(record.place, field, value)


def _of_list(
    record: Record, layout: Layout, value: list[object], follows: object, label: Label | tuple[Label, ...] | None
) -> Example | None:
    """Words, or messages, which end with their last answer, or may have more messages that complete them."""
    if follows is None and all(isinstance(item, str) for item in value):
        words = tuple(whole(record.place, layout.first, str(word)) for word in value)
        return Example(" ".join(words), label, words=words) if any(word.strip() for word in words) else None
    if follows is not None and not (layout.completes and isinstance(follows, list)):
        raise CheckpointError(
            f"{record.place}: {layout.second!r} is no list of messages, which could complete {layout.first!r}",
            hint="give messages in both fields, or texts in both",
        )
    if record.fields.get("tools"):
        raise CheckpointError(
            f"{record.place}: has tools beside its messages, which are not read",
            hint="give rows with a prompt and a completion, as the chat template writes them",
        )
    messages = messages_of(record, layout.first, [*value, *(follows if isinstance(follows, list) else [])])
    if follows is not None:
        before = len(value)
    else:
        messages, before = up_to_answer(messages)
    contents = [content_of(message) for message in messages]
    # The texts of the prompt tell conversations apart.
    text = "\n".join(contents[:before] or contents)
    return Example(text, label, messages=messages, prompt=before) if text.strip() else None
