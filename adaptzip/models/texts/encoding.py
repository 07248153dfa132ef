"""A row of data, and its text in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from adaptzip.errors import BaseModelError
from adaptzip.models.texts.example import Example
from adaptzip.models.texts.tokenisers import Tokeniser


@dataclass(frozen=True)
class Encoded:
    """An example in numbers.

    Attributes:
        ids: its tokens, at least one.
        labels: (class,), one for each token with `NO_LABEL` where there is none (tokens), the tokens of the text to
            be written (seq2seq), or a number for each output (multilabel, scores); () without.
        types: what the tokeniser says of which text each token is of, or of its place; () where it says nothing.
        start: place of the first token that is scored; 0 where all are.
    """

    ids: tuple[int, ...]
    labels: tuple[float, ...] = ()
    types: tuple[int, ...] = ()
    start: int = 0


def encode_text(
    tokeniser: Tokeniser, example: Example, longest: int | None, *, completion: bool, known: int
) -> Encoded:
    """An example's text without its label; without tokens where nothing of it is left to be scored.

    Args:
        longest: most tokens; more are cut off. None cuts nothing.
        completion: whether of a prompt with its completion the latter alone is scored.
        known: tokens that the model has an embedding for.

    Raises:
        BaseModelError: if the tokeniser knows a token that the model has no embedding for.
        RefusedError: if a conversation or a pair is more than the tokeniser can put together.
    """
    if example.messages:
        ids = tokeniser.encode_chat(example.messages)[:longest]
        types: Sequence[int] = ()
    else:
        ids, types = tokeniser.encode_typed(example.text + (example.completion or ""), example.pair, longest)
    check_known(tokeniser, example, ids, known)
    if not (completion and example.completes):
        return Encoded(tuple(ids), (), tuple(types))
    if example.messages:
        before = tokeniser.encode_chat(example.messages[: example.prompt], answer=True)
    else:
        before = tokeniser.encode(example.text)
    uncut = bool(example.messages) or longest is None or len(ids) < longest
    whole = ids if uncut else tokeniser.encode(example.text + (example.completion or ""))
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False)))
    if ids != whole[: len(ids)]:
        # Some tokenisers cut off the beginning.
        start = max(0, start - (len(whole) - len(ids)))
    return Encoded(tuple(ids), (), tuple(types), start) if start < len(ids) else Encoded(())


def check_known(tokeniser: Tokeniser, example: Example, ids: Sequence[int], known: int) -> None:
    """Refuse tokens that the model has no embedding for.

    Raises:
        BaseModelError: if there is one.
    """
    beyond = next((index for index in ids if index >= known), None)
    if beyond is not None:
        raise BaseModelError(
            f"the text {example.start} has the token {tokeniser.token(beyond)!r}, which is number {beyond}; the model "
            f"has {known} tokens",
            hint="give the tokeniser that belongs to the model, or a model that was resized for these tokens",
        )
