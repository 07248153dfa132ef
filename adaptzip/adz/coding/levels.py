"""Coding the levels of a tensor of real numbers, one by one, under the tables of its rows' classes.

Where much is to be coded, that is compiled (`kernels.levels`); what is interpreted here gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.contexts import sixths
from adaptzip.adz.coding.tables import LEVELS, NOTHING, Class
from adaptzip.adz.coding.trellis import Quantised, next_states
from adaptzip.core import compiled
from adaptzip.errors import FormatError

ESCAPE = 2 * LEVELS + 1
"""Symbol of a level whose coded part is beyond +-LEVELS; level k has symbol k + LEVELS."""
_LENGTHS = 24
_LONGEST = 20
"""Most bits of an escape's excess and the row's raw bits together, so that every level is below 2^22."""
_TOGETHER = 4096
"""Numbers that are encoded in one call: each takes a row of weights."""
_MOST_WORDS = 3
"""A number's symbol, escape and raw bits take fewer words."""


@dataclass(frozen=True, eq=False)
class Levels:
    """A coded tensor of real numbers: its levels and the class of each row."""

    quantised: Quantised
    classes: tuple[Class, ...]


@cache
def _weights() -> NDArray[np.float64]:
    """(tables, 2, symbols): the share of each symbol."""
    frequency = tables.frequencies().astype(np.float64)
    both = (frequency[..., LEVELS:0:-1], frequency[..., : LEVELS + 1], frequency[..., LEVELS + 1 :])
    return np.concatenate(both, axis=-1) / tables.TOTAL


@cache
def lefts() -> NDArray[np.uint32]:
    """(tables, 2, symbols + 1): where each symbol's interval begins (formats/adz-1.md, 5.2), and 2^24."""
    weights = _weights()
    symbols = weights.shape[-1]
    before = np.cumsum(weights, axis=-1) - weights
    begin = np.floor(before * (2.0**24 - symbols)) + np.arange(symbols)
    return np.concatenate([begin, np.full((*begin.shape[:2], 1), 2**24)], axis=-1).astype(np.uint32)


@cache
def _level_model(table: int, quantiser: int) -> Any:
    return stream.model.Categorical(_weights()[table, quantiser], perfect=False)


@cache
def _any_model() -> Any:
    """A model whose weights are given with each symbol."""
    return stream.model.Categorical(perfect=False)


def encode_uniform(coder: Any, numbers: NDArray[Any], size: int) -> None:
    """Encode numbers below `size`."""
    if size > 1:
        coder.encode_reverse(numbers.astype(np.int32), stream.model.Uniform(size))


def decode_uniform(coder: Any, count: int, size: int) -> NDArray[np.int32]:
    """Inverse of `encode_uniform`."""
    if size <= 1:
        return np.zeros(count, dtype=np.int32)
    result: NDArray[np.int32] = coder.decode(stream.model.Uniform(size), count)
    return result


def encode_levels(coder: Any, block: Levels) -> Any:
    """Encode a tensor's levels, and give the coder to go on with; rows of the class NOTHING take no room."""
    if compiled.worthwhile(block.quantised.levels.size):
        return _encode_compiled(coder, block)
    encode_interpreted(coder, block)
    return coder


def _encode_compiled(coder: Any, block: Levels) -> Any:
    from adaptzip.adz.coding.kernels.levels import encode

    levels = block.quantised.levels
    position, state = coder.pos()
    before = coder.get_compressed()[:position]
    words = np.empty(_MOST_WORDS * levels.size, dtype=np.uint32)
    shape = np.array([levels.shape[0]]), np.array([levels.shape[1]])
    numbers = np.ascontiguousarray(levels).reshape(-1), np.ascontiguousarray(block.quantised.quantiser).reshape(-1)
    state, count = encode(np.uint64(state), 0, *numbers, *shape, *_models(block.classes), lefts().reshape(-1), words)
    return stream.stack.AnsCoder(np.concatenate([before, words[:count], _last_words(state)]))


def encode_module(blocks: Sequence[Levels]) -> NDArray[np.uint32]:
    """The words of a module of real numbers, classes and all but its rank, by a compiled kernel.

    Args:
        blocks: its tensors, at least one.
    """
    from adaptzip.adz.coding.kernels.contexts import encode

    shapes = [block.quantised.levels.shape for block in blocks]
    classes = [c for block in blocks for c in block.classes]
    each = np.array([(c.shape, c.scale) for c in classes], dtype=np.int64).reshape(-1, 2).T
    rows, widths = np.array(shapes, dtype=np.int64).T
    sizes = np.array([sixths(width) for _, width in shapes], dtype=np.int64)
    levels = np.concatenate([block.quantised.levels.reshape(-1) for block in blocks])
    quantiser = np.concatenate([block.quantised.quantiser.reshape(-1) for block in blocks])
    # A row's class takes two words at most.
    words = np.empty(_MOST_WORDS * levels.size + 2 * len(classes), dtype=np.uint32)
    models = _models(classes)
    state, count = encode(levels, quantiser, rows, widths, sizes, each, *models, lefts().reshape(-1), words)
    return np.concatenate([words[:count], _last_words(state)])


def _last_words(state: int) -> NDArray[np.uint32]:
    """What a coder's state leaves at the end of its words."""
    last = [state & 0xFFFFFFFF, state >> 32] if state >> 32 else [state][: int(state > 0)]
    return np.array(last, dtype=np.uint32)


def encode_interpreted(coder: Any, block: Levels) -> None:
    """`encode_levels` without numba, as many numbers together as have no escape and no raw bits."""
    raw, table = (np.repeat(of_row, block.quantised.levels.shape[1]) for of_row in _models(block.classes))
    coded = np.flatnonzero(table >= 0)
    raw, table = raw[coded], table[coded]
    levels = block.quantised.levels.reshape(-1)[coded]
    quantiser = block.quantised.quantiser.reshape(-1)[coded].astype(np.int64)
    alone = (raw > 0) | (np.abs(levels) > LEVELS)
    ends = [*(np.flatnonzero(alone[1:] | alone[:-1]) + 1), len(levels)] if len(levels) else []
    for start, stop in reversed(list(zip([0, *ends], ends, strict=False))):
        if alone[start]:
            _encode_number(coder, int(levels[start]), int(raw[start]), int(table[start]), int(quantiser[start]))
            continue
        for first in reversed(range(start, stop, _TOGETHER)):
            part = slice(first, min(first + _TOGETHER, stop))
            symbols = (levels[part] + LEVELS).astype(np.int32)
            coder.encode_reverse(symbols, _any_model(), _weights()[table[part], quantiser[part]])


def _encode_number(coder: Any, level: int, raw: int, table: int, quantiser: int) -> None:
    high = level
    if raw:
        high = (level + (1 << raw - 1)) >> raw
        _encode(coder, (level + (1 << raw - 1)) & ((1 << raw) - 1), 1 << raw)
    symbol = high + LEVELS
    if abs(high) > LEVELS:
        symbol = ESCAPE
        length = (abs(high) - LEVELS).bit_length() - 1
        _encode(coder, abs(high) - LEVELS - (1 << length), 1 << length)
        _encode(coder, int(high < 0), 2)
        _encode(coder, length, _LENGTHS)
    coder.encode_reverse(np.array([symbol], dtype=np.int32), _level_model(table, 0 if raw else quantiser))


def _encode(coder: Any, number: int, size: int) -> None:
    encode_uniform(coder, np.array([number]), size)


def decode_levels(coder: Any, rows: int, width: int, classes: Sequence[Class]) -> Quantised:
    """Inverse of `encode_levels`.

    Raises:
        FormatError: if a level is beyond the format's.
    """
    if compiled.worthwhile(rows * width):
        return _decode_compiled(coder, rows, width, classes)
    return decode_interpreted(coder, rows, width, classes)


def _decode_compiled(coder: Any, rows: int, width: int, classes: Sequence[Class]) -> Quantised:
    from adaptzip.adz.coding.kernels.levels import decode

    found = Quantised(np.empty((rows, width), dtype=np.int32), np.empty((rows, width), dtype=np.uint8))
    position, state = coder.pos()
    words = np.concatenate([np.zeros(1, dtype=np.uint32), coder.get_compressed()[:position]])
    raw, table = _models(classes)
    own = lefts().reshape(-1), _guesses(), found.levels, found.quantiser
    state, position, wrong = decode(np.uint64(state), words, position, raw, table, *own)
    if wrong:
        raise _too_long(wrong)
    coder.seek(position, int(state))
    return found


def _models(classes: Sequence[Class]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Raw bits and table of each row; table -1 where all its numbers are 0."""
    raw = np.array([c.raw_bits for c in classes], dtype=np.int64)
    return raw, np.array([-1 if c.shape == NOTHING else c.table for c in classes], dtype=np.int64)


@cache
def _guesses() -> NDArray[np.uint8]:
    """The symbol that holds the least quantile of each place, table by table and quantiser by quantiser."""
    from adaptzip.adz.coding.kernels.levels import GUESSED_BITS

    least = np.arange(2**GUESSED_BITS) << (24 - GUESSED_BITS)
    rows = lefts().reshape(-1, lefts().shape[-1])
    return np.concatenate([np.searchsorted(row, least, side="right") - 1 for row in rows]).astype(np.uint8)


def decode_interpreted(coder: Any, rows: int, width: int, classes: Sequence[Class]) -> Quantised:
    """`decode_levels` without numba."""
    state, following = 0, next_states().tolist()
    levels, quantiser = [], []
    for c in classes:
        models = None if c.shape == NOTHING else (_level_model(c.table, 0), _level_model(c.table, 1))
        for _ in range(width):
            level = 0 if models is None else _decode_number(coder, models[0 if c.raw_bits else state & 1], c.raw_bits)
            levels.append(level)
            quantiser.append(state & 1)
            state = following[state][level & 1]
    return Quantised(
        np.array(levels, dtype=np.int32).reshape(rows, width), np.array(quantiser, dtype=np.uint8).reshape(rows, width)
    )


def _decode_number(coder: Any, model: Any, raw: int) -> int:
    high = int(coder.decode(model)) - LEVELS
    if high > LEVELS:
        length = _decode(coder, _LENGTHS)
        if length + raw > _LONGEST:
            raise _too_long(length)
        negative = _decode(coder, 2)
        high = LEVELS + (1 << length) + _decode(coder, 1 << length)
        high = -high if negative else high
    if raw:
        high = (high << raw) + _decode(coder, 1 << raw) - (1 << raw - 1)
    return high


def _decode(coder: Any, size: int) -> int:
    return int(decode_uniform(coder, 1, size)[0])


def _too_long(length: int) -> FormatError:
    return FormatError(f"a level is beyond the format's: its escape has {length} bits")
