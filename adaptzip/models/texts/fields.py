"""Which fields of a file are texts, told over all of its rows, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptzip.errors import CheckpointError, UsageError
from adaptzip.models.texts.cells import is_number
from adaptzip.models.texts.chats import is_message
from adaptzip.models.texts.record import Record

TEXT_KEYS = ("text", "prompt", "question", "sentence")
"""Fields that a record may have its one text in."""
PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("sent1", "sent2"),
    ("s1", "s2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("claim", "evidence"),
    ("anchor", "positive"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "positive"),
)
"""Fields that are known to be two texts that belong together, in any case of letters."""
COMPLETION = ("prompt", "completion")
WORDS = ("tokens", "words")
"""Fields that are known to be lists of words."""
CHATS = ("messages", "conversations")
"""Fields that are known to be lists of messages."""
_OTHERS = (
    "answer", "response", "output", "instruction", "input", "system", "title", "headline", "body", "content", "summary",
    "document", "article", "abstract", "negative", "chosen", "rejected",
)  # fmt: skip
"""Texts as well, which are left out only where a field is named."""
_KNOWN = frozenset((*TEXT_KEYS, *(name for pair in PAIRS for name in pair), *COMPLETION, *WORDS, *CHATS, *_OTHERS))
_PLACES = frozenset(
    (
        "id", "idx", "index", "uid", "guid", "url", "source", "author", "user", "name", "date", "time", "timestamp",
        "lang", "language", "split",
    )
)  # fmt: skip
"""Fields that say where a row is from."""
_NO_TEXTS = frozenset(
    (
        "label", "labels", "label_text", "label_name", "gold_label", "class", "category", "categories", "topic", "tags",
        "ner_tags", "pos_tags", "intent", "emotion", "sentiment", "stance", "score", "scores", "rating", "stars",
    )
) | _PLACES  # fmt: skip
"""Fields that hold labels, or say where a row is from, however they look."""
_WORDS, _MANY_WORDS = 2, 5
_UNBROKEN = 8
"""Letters of a script without blanks, or of no word at all, that may be several words."""
_LOOKED_AT = 1000
"""Characters of a value that are looked at."""


@dataclass(frozen=True)
class Fields:
    """Where a record has what; None looks for the usual names.

    Attributes:
        text: the text, a list of words, or messages.
        pair: the second text of a pair.
        completion: what completes the text.
        label: the label; None reads none.
    """

    text: str | None = None
    pair: str | None = None
    completion: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.text is None and (self.pair is not None or self.completion is not None):
            option, what = ("`pair_field=`", "second text") if self.pair else ("`completion_field=`", "completion")
            raise UsageError(f"a {what} is named and no first", hint=f"name both: `text_field=` and {option}")
        if self.pair is not None and self.completion is not None:
            raise UsageError("a second text and a completion are named", hint="name one of the two")
        named = [name for name in (self.text, self.pair, self.completion, self.label) if name is not None]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"the field {twice!r} is named for two things", hint="name a field of its own for each")


@dataclass(frozen=True)
class Layout:
    """The fields that one row is read from.

    Attributes:
        first: the text.
        second: what goes with it.
        completes: whether that completes it, and is no second text of a pair.
    """

    first: str
    second: str | None = None
    completes: bool = False


def layouts(records: Sequence[Record], fields: Fields, texts: Sequence[str]) -> list[Layout]:
    """What each row is read from.

    Args:
        texts: the fields that hold texts (`text_fields`), which count where none is named.

    Raises:
        CheckpointError: if a row has several texts of which one would be read, none, or half of what others have.
    """
    found = _found(records, fields, texts)
    hint = "name the field of the texts with `text_field=`" if fields.text is None else "name another field"
    for layout in dict.fromkeys(found):
        _check_no_numbers(records, layout.first, hint)
        if layout.second is not None and not layout.completes:
            _check_no_numbers(records, layout.second, hint)
    return found


def _found(records: Sequence[Record], fields: Fields, texts: Sequence[str]) -> list[Layout]:
    if fields.text is not None:
        return [Layout(fields.text, fields.pair or fields.completion, fields.completion is not None)] * len(records)
    together = together_in(records, texts)
    for layout in together:
        _check_halves(records, layout)
    return [_together(record, texts) or _alone(record, texts, together) for record in records]


def together_in(records: Sequence[Record], texts: Sequence[str]) -> list[Layout]:
    """The texts of known names that rows have beside each other, and no others."""
    return list({layout: None for record in records if (layout := _together(record, texts)) is not None})


def text_fields(records: Sequence[Record], label: str | None) -> list[str]:
    """The fields that hold texts: those that are known to, and those most of whose values are several words."""
    names = dict.fromkeys(name for record in records for name in record.fields if name != label)
    found = [name for name in names if _holds_texts(records, name)]
    prompt, completion = COMPLETION
    if any(name.casefold() == completion for name in found):
        # Prompts may all be empty before completions that are not.
        found += [name for name in names if name.casefold() == prompt and name not in found]
    return found


def unread_texts(records: Sequence[Record], texts: Sequence[str], label: str | None) -> list[str]:
    """Fields that may be texts, but hold few different ones, or are called as labels are: they are not read."""
    names = dict.fromkeys(name for record in records for name in record.fields if name != label)
    return [name for name in names if name not in texts and _may_be_text(records, name)]


def _may_be_text(records: Sequence[Record], name: str) -> bool:
    low = name.casefold()
    values = [value for value in (record.fields.get(name) for record in records) if isinstance(value, str) and value]
    if not values or "label" in low or low in _KNOWN or low in _PLACES:
        return False
    return 2 * sum(_words(value) >= _WORDS for value in values) > len(values)


def partners(name: str) -> list[str]:
    """What is known to go with a text of this name, in small letters."""
    return [second for first, second in (COMPLETION, *PAIRS, ("instruction", "input")) if first == name.casefold()]


def _holds_texts(records: Sequence[Record], name: str) -> bool:
    given = [value for value in (record.fields.get(name) for record in records) if value not in (None, "", [])]
    values = [value for value in given if isinstance(value, str | list)]
    if not values or name.casefold() in _NO_TEXTS:
        return False
    if name.casefold() in _KNOWN:
        return True
    count = len(values)
    several = sum(_words(value) >= _WORDS for value in values)
    many = sum(_words(value) >= _MANY_WORDS for value in values)
    different = len({value if isinstance(value, str) else repr(value) for value in values})
    mostly = 2 * several > len(given) and 2 * different > count
    return mostly or 2 * many > len(given) and 10 * different > count


def _words(value: str | list[object]) -> int:
    """About how many words a text has; of a list those of its longest text, and of messages as many as it takes."""
    if isinstance(value, list):
        if any(map(is_message, value)):
            return _MANY_WORDS
        return max((_words(item) for item in value if isinstance(item, str)), default=0)
    words = [word for word in value[:_LOOKED_AT].split() if any(map(str.isalpha, word))]
    unbroken = sum(character.isalpha() and character >= "\u0e00" for character in value[:_LOOKED_AT])
    return max(len(words), unbroken // _UNBROKEN * _WORDS)


def _numbers(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) and is_number(value) for value in values)


def _check_no_numbers(records: Sequence[Record], name: str, hint: str) -> None:
    values = [value for value in (record.fields.get(name) for record in records) if value not in (None, "")]
    if not records[0].typed and len(values) > 1 and _numbers(values):
        raise CheckpointError(
            f"{records[0].place}: {name!r} holds nothing but numbers, in this and all other rows, expected texts",
            hint=hint,
        )


def _present(record: Record, texts: Sequence[str]) -> list[str]:
    return [name for name in texts if isinstance(record.fields.get(name), str | list)]


def _together(record: Record, texts: Sequence[str]) -> Layout | None:
    """Two texts that are all that a row has, and are known to belong together."""
    by_name = {name.casefold(): name for name in _present(record, texts)}
    for first, second in (COMPLETION, *PAIRS):
        if set(by_name) == {first, second}:
            return Layout(by_name[first], by_name[second], (first, second) == COMPLETION)
    return None


def _alone(record: Record, texts: Sequence[str], together: Sequence[Layout]) -> Layout:
    """The one text of a row, or without any where other rows have theirs."""
    present = _present(record, texts)
    full = [name for name in present if record.fields[name]]
    if len(full) > 1:
        raise CheckpointError(
            f"{record.place}: has texts in {' and '.join(map(repr, full))}",
            hint="name the one to read with `text_field=`, the second of a pair with `pair_field=`, and what "
            "completes a prompt with `completion_field=`",
        )
    usable = [name for name in full or present if name.casefold() in (*TEXT_KEYS, *WORDS, *CHATS)]
    if usable:
        return Layout(usable[0])
    empty = [layout for layout in together if layout.first in record.fields and layout.second in record.fields]
    return empty[0] if empty else Layout(_text_name(record))


def _text_name(record: Record) -> str:
    by_name = {name.casefold(): name for name in record.fields}
    name = next((by_name[key] for key in TEXT_KEYS if key in by_name), None)
    if name is None:
        raise CheckpointError(
            f"{record.place}: has none of the fields {', '.join(TEXT_KEYS)} (its fields: {record.names})",
            hint="name the field of the text with `text_field=`",
        )
    return name


def _check_halves(records: Sequence[Record], layout: Layout) -> None:
    for record in records:
        held = {name: bool(record.fields.get(name)) for name in (layout.first, layout.second or "")}
        lacking = next((name for name in held if not isinstance(record.fields.get(name), str | list)), None)
        if lacking is not None and any(held.values()):
            kept = next(name for name, full in held.items() if full)
            raise CheckpointError(
                f"{record.place}: has {kept!r} and no {lacking!r}, which other rows have",
                hint="fill it in, drop the row, or name the one to read with `text_field=`",
            )
