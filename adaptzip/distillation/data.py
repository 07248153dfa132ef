"""Training data: texts with or without labels, as token ids in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from adaptzip.calibration.models import NO_LABEL, Batch, LoadedModel, padded
from adaptzip.calibration.sampling import sample_ids
from adaptzip.calibration.texts import Record, read_records
from adaptzip.errors import CheckFailedError, CheckpointError, RefusedError, UsageError

_SHOWN_CLASSES = 20
_SHOWN_TEXT = 40
_PATIENCE = 4
"""A model that writes nothing but empty texts is given up after as many times the texts wanted."""


@dataclass(frozen=True)
class Example:
    """A text, and what it is labelled with.

    Attributes:
        text: the text.
        label: a class's name or index, the text to be written (seq2seq), or a label for each of the text's words, with
            blanks between them (tokens); None without a label.
    """

    text: str
    label: str | None = None


@dataclass(frozen=True)
class Encoded:
    """An example in numbers.

    Attributes:
        ids: its tokens, at least one.
        labels: (class,), one for each token with `NO_LABEL` where there is none (tokens), or the tokens of the text to
            be written (seq2seq); () without.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...] = ()


def read_examples(path: Path, *, text_field: str | None = None, label_field: str | None = None) -> tuple[Example, ...]:
    """The examples of a .jsonl, .csv or .txt file, in its order.

    Args:
        text_field: where the text is; None takes the first of `TEXT_KEYS` that is there.
        label_field: where the label is: a text, a whole number, or a list of these. None reads no labels.

    Raises:
        CheckpointError: if the file can't be read or is malformed, a field is missing, or holds something else.
    """
    records = read_records(path)
    return tuple(
        Example(record.text(text_field), None if label_field is None else _label(record, label_field))
        for record in records
    )


def _label(record: Record, field: str) -> str | None:
    value = record.value(field)
    parts = value if isinstance(value, list) else [value]
    if value is None or value == "":
        return None
    if not parts or any(isinstance(part, bool) or not isinstance(part, str | int) for part in parts):
        raise CheckpointError(
            f"{record.place}: {field!r} is not a label",
            hint="a label is a text or a whole number, or a list of these with one for each word",
        )
    return " ".join(str(part) for part in parts)


def hold_out(examples: Sequence[Example], share: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Draw about a share of the examples to be held out; equal texts stay together.

    Returns:
        The examples to train on, and those held out, each in their order; at least one of each.

    Raises:
        UsageError: if the share is not between 0 and 1.
        CheckFailedError: if there are fewer than two different texts.
    """
    if not 0 < share < 1:
        raise UsageError(f"the held-out share is {share:g}, expected a number between 0 and 1", hint="such as 0.1")
    counts: dict[str, int] = {}
    for example in examples:
        counts[example.text] = counts.get(example.text, 0) + 1
    if len(counts) < 2:
        raise CheckFailedError(
            f"there are {len(counts)} different texts, expected at least 2: some to train on, some held out",
            hint="give more texts",
        )
    texts = list(counts)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    held: set[str] = set()
    total = 0
    for place in order[:-1]:
        if total >= max(1, round(share * len(examples))):
            break
        held.add(texts[place])
        total += counts[texts[place]]
    return tuple(e for e in examples if e.text not in held), tuple(e for e in examples if e.text in held)


def encode(
    loaded: LoadedModel, examples: Sequence[Example], *, max_tokens: int, packed: bool = False
) -> tuple[Encoded, ...]:
    """The examples as a model takes them; those without a token are left out.

    Args:
        max_tokens: texts, and texts to be written, are cut to this many tokens.
        packed: join the texts of a causal model, with its end token after each, and cut them into pieces of
            `max_tokens`.

    Raises:
        CheckpointError: if a label is no class, or not one for each word, or only some have a text to be written.
        CheckFailedError: if none of the texts has a token.
        UsageError: if texts of another than a causal model are to be packed.
    """
    longest = loaded.longest(max_tokens)
    if packed:
        if loaded.kind != "causal":
            raise UsageError(
                f"only texts of a causal language model can be packed, this model is for {loaded.kind}",
                hint="leave out packing",
            )
        found = _packed([loaded.tokeniser.encode(example.text) for example in examples], loaded.tokeniser.end, longest)
    elif loaded.kind == "tokens":
        found = [_of_words(loaded, example, longest) for example in examples]
    else:
        found = [
            Encoded(tuple(loaded.tokeniser.encode(example.text, longest)), _labels(loaded, example, longest))
            for example in examples
        ]
    kept = tuple(encoded for encoded in found if encoded.ids)
    if not kept:
        raise CheckFailedError("none of the texts has a token", hint="give texts that are not empty")
    if loaded.kind == "seq2seq" and len({bool(encoded.labels) for encoded in kept}) > 1:
        raise CheckpointError(
            "some examples have a text to be written and some have none", hint="label all of them, or none"
        )
    return kept


def _packed(texts: Sequence[Sequence[int]], end: int | None, longest: int) -> list[Encoded]:
    stream: list[int] = []
    for ids in texts:
        stream.extend(ids)
        # Where texts start with what ends them, or the tokeniser ends them itself, nothing is missing between them.
        if ids and end is not None and end not in (ids[0], ids[-1]):
            stream.append(end)
    pieces = [tuple(stream[start : start + longest]) for start in range(0, len(stream), longest)]
    # One token alone has no next one.
    return [Encoded(piece) for piece in pieces if len(piece) > 1]


def _labels(loaded: LoadedModel, example: Example, longest: int) -> tuple[int, ...]:
    if example.label is None:
        return ()
    if loaded.kind == "seq2seq":
        return tuple(loaded.tokeniser.encode_target(example.label, longest))
    if loaded.kind == "classifier":
        return (_class(example.label.strip(), loaded.classes, example),)
    return ()


def _of_words(loaded: LoadedModel, example: Example, longest: int) -> Encoded:
    """A word's label is that of its first token."""
    words = example.text.split()
    ids, owners = loaded.tokeniser.encode_words(words, longest)
    if example.label is None:
        return Encoded(tuple(ids))
    names = example.label.split()
    if len(names) != len(words):
        raise CheckpointError(
            f"the text {_start(example)} has {len(words)} words and {len(names)} labels",
            hint="give one label for each word between blanks",
        )
    known = loaded.classes
    classes = [_class(name, known, example) for name in names]
    labels = [
        NO_LABEL if owner is None or owner == before else classes[owner]
        for before, owner in zip([None, *owners], owners, strict=False)
    ]
    return Encoded(tuple(ids), tuple(labels))


def _class(label: str, classes: Sequence[str], example: Example) -> int:
    """A class by its name, or else by its number."""
    if label in classes:
        return classes.index(label)
    if label.isdecimal() and int(label) < len(classes):
        return int(label)
    shown = ", ".join(classes[:_SHOWN_CLASSES]) + (", ..." if len(classes) > _SHOWN_CLASSES else "")
    raise CheckpointError(
        f"{label!r}, the label of the text {_start(example)}, is none of the classes {shown}",
        hint=f"label with the names of classes, or with their numbers from 0 to {len(classes) - 1}",
    )


def _start(example: Example) -> str:
    text = example.text
    return repr(text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}...")


def collate(loaded: LoadedModel, part: Sequence[Encoded]) -> Batch:
    """Examples as one batch, padded, on the model's device; without labels if none of them has any."""
    ids = [encoded.ids for encoded in part]
    if not any(encoded.labels for encoded in part):
        return loaded.batch(ids)
    if loaded.kind == "classifier":
        return loaded.batch(ids, torch.tensor([(encoded.labels or (NO_LABEL,))[0] for encoded in part]))
    if loaded.kind == "tokens":
        # As wide as the ids, even where the longest text has no labels.
        rows = [encoded.labels or (NO_LABEL,) * len(encoded.ids) for encoded in part]
        return loaded.batch(ids, padded(rows, NO_LABEL))
    return loaded.batch(ids, padded([encoded.labels for encoded in part], NO_LABEL))


def batches(loaded: LoadedModel, encoded: Sequence[Encoded], size: int) -> list[Batch]:
    """All examples in batches of `size`, short ones first, for evaluation."""
    by_length = sorted(encoded, key=lambda one: len(one.ids))
    return [collate(loaded, by_length[start : start + size]) for start in range(0, len(by_length), size)]


def self_texts(loaded: LoadedModel, count: int, *, max_tokens: int, seed: int, batch: int = 16) -> tuple[Example, ...]:
    """Texts that a causal teacher writes itself, token by token at temperature 1.

    The same seed, batch and model give the same texts.

    Args:
        count: texts wanted; empty ones are drawn anew.
        max_tokens: longer texts stop there.
        batch: texts written together.

    Raises:
        RefusedError: if the model can't write text by itself, or writes only empty ones.
    """
    if loaded.kind == "seq2seq":
        raise RefusedError(
            "a seq2seq model writes text only in answer to another, so that it has no texts of its own to learn from",
            hint="give a file of inputs; without target texts the model is fed the inputs themselves",
        )
    if loaded.kind != "causal":
        raise RefusedError(f"a model for {loaded.kind} can't write text by itself", hint="give a file of texts")
    generator = torch.Generator().manual_seed(seed)
    found: list[str] = []
    drawn = 0
    while len(found) < count:
        if drawn >= _PATIENCE * count + batch:
            raise RefusedError(
                f"the model wrote {len(found)} texts that are not empty of {drawn}, expected {count}",
                hint="give a file of texts",
            )
        some = min(batch, count - len(found))
        texts = (loaded.tokeniser.decode(ids) for ids in sample_ids(loaded, some, max_tokens, generator))
        found.extend(text for text in texts if text.strip())
        drawn += some
    return tuple(Example(text) for text in found)
