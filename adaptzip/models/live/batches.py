"""Training data: texts with or without labels, as token ids in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import torch

from adaptzip.errors import CheckFailedError, RefusedError, UsageError, warn
from adaptzip.models.kinds import OF_TEXTS
from adaptzip.models.live.labels import Reading, labels_of, reading_of, word_labels
from adaptzip.models.live.running import NO_LABEL, Batch, LoadedModel, padded
from adaptzip.models.live.sampling import sample_ids
from adaptzip.models.texts.encoding import Encoded
from adaptzip.models.texts.example import Example
from adaptzip.models.texts.examples import read_examples
from adaptzip.models.texts.forms import check_forms, words_of

__all__ = [
    "Encoded",
    "Example",
    "Reading",
    "batches",
    "check_words",
    "collate",
    "encode",
    "examples_of",
    "hold_out",
    "read_examples",
    "reading_of",
    "self_texts",
]

_PATIENCE = 4
"""A model that writes nothing but empty texts is given up after as many times the texts wanted."""


def hold_out(examples: Sequence[Example], share: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Draw about a share of the examples to be held out.

    Examples of the same text stay together, also where what is paired with it or completes it differs, so that no
    prompt is on both sides.

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
        raise _too_few(examples)
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


def _too_few(examples: Sequence[Example]) -> CheckFailedError:
    """What to say where there is nothing to hold out."""
    if not examples:
        return CheckFailedError("there are no texts", hint="give texts to train on, and some to hold out")
    what = "prompt" if any(e.completes for e in examples) else "first text" if any(e.pair for e in examples) else "text"
    together = "" if what == "text" else f"; those with the same {what} are held out together"
    return CheckFailedError(
        f"all examples have the same {what}, expected at least 2 different ones: some to train on, some held out",
        hint=f"give examples with other {what}s{together}",
    )


def check_words(loaded: LoadedModel, examples: Sequence[Example], reading: Reading) -> None:
    """Refuse words that have not one label each, before anything else is said of their texts.

    Raises:
        CheckpointError: if there are some.
    """
    for example in examples if loaded.kind == "tokens" else ():
        if example.label is not None:
            word_labels(loaded, example, len(words_of(example)), reading)


def encode(
    loaded: LoadedModel,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    packed: bool = False,
    reading: Reading | None = None,
) -> tuple[Encoded, ...]:
    """The examples as a model takes them; those of which no token counts are left out, with a warning.

    Args:
        max_tokens: texts, and texts to be written, are cut to this many tokens.
        packed: join the texts of a causal model, with its end token after each, and cut them into pieces of
            `max_tokens`.
        reading: how labels are read where these examples are a part of the data; None tells it from them.

    Raises:
        CheckpointError: if a label is no class, or not one for each word, or only some have a text to be written.
        BaseModelError: if a text has a token that the model has no embedding for.
        CheckFailedError: if none of the texts has a token that counts.
        UsageError: if texts of another than a causal model are to be packed, or are of a form that the model does not
            take, or have labels that it has no use for.
    """
    reading = reading or reading_of(loaded, examples)
    check_forms(loaded.kind, loaded.score, examples)
    longest = loaded.longest(max_tokens)
    if packed:
        found = _packed(loaded, examples, longest)
    elif loaded.kind == "tokens":
        found = [_of_words(loaded, example, longest, reading) for example in examples]
    else:
        found = [_of_text(loaded, example, longest, reading) for example in examples]
    # Where the model has no more positions, more tokens are of no use.
    more = "raise `max_tokens=`, " if longest == max_tokens else ""
    kept = tuple(loaded.counting(examples, found, longest, f"{more}give shorter prompts, or add `score='all'`"))
    _tell_of_padding(loaded, kept)
    if loaded.kind == "seq2seq" and not any(encoded.labels for encoded in kept):
        warn(
            "no text to be written is named, with `label_field=` or `completion_field=`: the inputs stand in "
            "their place"
        )
    return kept


def _tell_of_padding(loaded: LoadedModel, texts: Sequence[Encoded]) -> None:
    """Warn where a classifier is read before the end of a text, as its last token is padding by the tokeniser alone."""
    ending = sum(encoded.ids[-1] == loaded.pad for encoded in texts)
    if loaded.kind in OF_TEXTS and not loaded.own_pad and ending:
        token = loaded.tokeniser.token(loaded.pad or 0)
        warn(
            f"{ending} of {len(texts)} texts end in {token!r}, which the tokeniser pads with, and config.json names no "
            "padding: they are read up to the token before it"
        )


def _packed(loaded: LoadedModel, examples: Sequence[Example], longest: int) -> list[Encoded]:
    if loaded.kind != "causal":
        raise UsageError(
            f"only texts of a causal language model can be packed, this model is for {loaded.kind}",
            hint="leave out packing",
        )
    if loaded.score != "all" and any(example.completes for example in examples):
        raise UsageError("texts whose completions alone are scored can't be packed", hint="add `score='all'`")
    end, stream = loaded.tokeniser.end, list[int]()
    for example in examples:
        ids = loaded.encode(example, None).ids
        stream.extend(ids)
        # Where texts start with what ends them, or the tokeniser ends them itself, nothing is missing between them.
        if ids and end is not None and end not in (ids[0], ids[-1]):
            stream.append(end)
    pieces = [tuple(stream[start : start + longest]) for start in range(0, len(stream), longest)]
    # One token alone has no next one.
    return [Encoded(piece) for piece in pieces if len(piece) > 1]


def _of_text(loaded: LoadedModel, example: Example, longest: int, reading: Reading) -> Encoded:
    if loaded.kind == "seq2seq":
        encoded = loaded.encode(replace(example, completion=None), longest)
        return replace(encoded, labels=labels_of(loaded, example, longest, reading))
    return replace(loaded.encode(example, longest), labels=labels_of(loaded, example, longest, reading))


def _of_words(loaded: LoadedModel, example: Example, longest: int, reading: Reading) -> Encoded:
    """A word's label is that of its first token."""
    encoded, owners = loaded.encode_words(example, longest)
    if example.label is None:
        return encoded
    classes = word_labels(loaded, example, len(words_of(example)), reading)
    labels = [
        NO_LABEL if owner is None or owner == before else classes[owner]
        for before, owner in zip([None, *owners], owners, strict=False)
    ]
    return replace(encoded, labels=tuple(labels))


def collate(loaded: LoadedModel, part: Sequence[Encoded]) -> Batch:
    """Examples as one batch, padded, on the model's device; without labels if none of them has any."""
    if not any(encoded.labels for encoded in part):
        return loaded.encoded_batch(part)
    if loaded.kind == "classifier":
        return loaded.encoded_batch(part, torch.tensor([int((e.labels or (NO_LABEL,))[0]) for e in part]))
    if loaded.kind in ("multilabel", "scores"):
        nothing = (nan,) * loaded.outputs
        return loaded.encoded_batch(part, torch.tensor([e.labels or nothing for e in part], dtype=torch.float32))
    if loaded.kind == "tokens":
        # As wide as the ids, even where the longest text has no labels.
        rows = [_whole(e.labels) or [NO_LABEL] * len(e.ids) for e in part]
        return loaded.encoded_batch(part, padded(rows, NO_LABEL))
    return loaded.encoded_batch(part, padded([_whole(encoded.labels) for encoded in part], NO_LABEL))


def _whole(labels: Sequence[float]) -> list[int]:
    return [int(label) for label in labels]


def batches(loaded: LoadedModel, encoded: Sequence[Encoded], size: int) -> list[Batch]:
    """All examples in batches of `size`, short ones first, for evaluation."""
    by_length = sorted(encoded, key=lambda one: len(one.ids))
    return loaded.apart_if_one_is(
        collate(loaded, by_length[start : start + size]) for start in range(0, len(by_length), size)
    )


def examples_of(given: Sequence[Example | str]) -> tuple[Example, ...]:
    """Examples as they are, and plain texts as such without labels.

    Raises:
        UsageError: if what is given is a path, or holds something else.
    """
    if isinstance(given, str | Path):
        raise UsageError(f"{given}: expected texts, found a path", hint="read the file with read_examples")
    found = tuple(Example(one) if isinstance(one, str) else one for one in given)
    other = next((one for one in found if not isinstance(one, Example)), None)
    if other is not None:
        raise UsageError(f"expected texts, found {type(other).__name__}", hint="give strings or Example, text by text")
    return found


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
