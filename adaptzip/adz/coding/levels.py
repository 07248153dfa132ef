"""Coding the levels of a tensor of real numbers, run by run, under the tables of its rows' classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.tables import LEVELS, NOTHING, Class
from adaptzip.adz.coding.trellis import Quantised, lanes_of, next_states
from adaptzip.errors import FormatError

ESCAPE = 2 * LEVELS + 1
"""Symbol of a level whose coded part is beyond +-LEVELS; level k has symbol k + LEVELS."""
_LENGTHS = 24
_LONGEST = 20
"""Most bits of an escape's excess and the row's raw bits together, so that every level is below 2^22."""
_SHORT = 32
"""Runs of up to this many numbers are encoded many at a time."""
_TOGETHER = 256
"""How many such runs: each of their numbers takes a row of weights."""


@dataclass(frozen=True, eq=False)
class Levels:
    """A coded tensor of real numbers: its levels and the class of each row."""

    quantised: Quantised
    classes: tuple[Class, ...]


@dataclass(frozen=True)
class _Run:
    """A run of elements in decoding order that lie in one row and one stage."""

    start: int
    stop: int
    row: int


def _runs(rows: int, width: int) -> Iterator[_Run]:
    """Runs in decoding order: stage by stage, cut where a row ends."""
    numbers = rows * width
    lanes = lanes_of(numbers)
    cuts = sorted({*range(0, numbers, lanes), *range(0, numbers, width), numbers})
    for start, stop in pairwise(cuts):
        yield _Run(start, stop, start // width)


@cache
def _weights() -> NDArray[np.float64]:
    """(tables, 2, symbols): the share of each symbol."""
    frequency = tables.frequencies().astype(np.float64)
    both = (frequency[..., LEVELS:0:-1], frequency[..., : LEVELS + 1], frequency[..., LEVELS + 1 :])
    return np.concatenate(both, axis=-1) / tables.TOTAL


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


def encode_levels(coder: Any, block: Levels) -> None:
    """Encode a tensor's levels; rows of the class NOTHING take no room."""
    levels = block.quantised.levels.reshape(-1)
    coded = [run for run in _runs(*block.quantised.levels.shape) if block.classes[run.row].shape != NOTHING]

    def batch(place: tuple[int, _Run]) -> tuple[bool, int]:
        index, run = place
        short = run.stop - run.start <= _SHORT and not block.classes[run.row].raw_bits
        plain = short and int(np.abs(levels[run.start : run.stop]).max()) <= LEVELS
        return plain, index // _TOGETHER if plain else 0

    for (plain, _), places in groupby(enumerate(reversed(coded)), batch):
        runs = [run for _, run in places]
        if plain:
            _encode_together(coder, runs[::-1], block)
            continue
        for run in runs:
            part = slice(run.start, run.stop)
            _encode_run(coder, block.classes[run.row], levels[part], block.quantised.quantiser.reshape(-1)[part])


def _encode_together(coder: Any, runs: Sequence[_Run], block: Levels) -> None:
    """Encode short runs without escapes and raw bits in one call: each call takes as long as tens of numbers."""
    numbers = np.concatenate([np.arange(run.start, run.stop) for run in runs])
    of_run = np.repeat(np.arange(len(runs)), [run.stop - run.start for run in runs])
    table = np.array([block.classes[run.row].table for run in runs])[of_run]
    quantiser = block.quantised.quantiser.reshape(-1)[numbers].astype(np.int64)
    order = np.argsort(2 * of_run + quantiser, kind="stable")
    symbols = (block.quantised.levels.reshape(-1)[numbers] + LEVELS)[order].astype(np.int32)
    coder.encode_reverse(symbols, _any_model(), _weights()[table[order], quantiser[order]])


def _encode_run(coder: Any, c: Class, levels: NDArray[np.int32], quantiser: NDArray[np.uint8]) -> None:
    raw = c.raw_bits
    half = (1 << raw) >> 1
    high = (levels + half) >> raw
    if raw:
        encode_uniform(coder, (levels + half) & ((1 << raw) - 1), 1 << raw)
    outside = np.abs(high) > LEVELS
    if outside.any():
        _encode_escapes(coder, high[outside])
    symbols = np.where(outside, ESCAPE, high + LEVELS).astype(np.int32)
    if raw:
        coder.encode_reverse(symbols, _level_model(c.table, 0))
        return
    odd = quantiser.astype(bool)
    coder.encode_reverse(symbols[odd], _level_model(c.table, 1))
    coder.encode_reverse(symbols[~odd], _level_model(c.table, 0))


def _encode_escapes(coder: Any, high: NDArray[np.int32]) -> None:
    excess = np.abs(high) - LEVELS - 1
    length = int(excess.max()).bit_length()
    encode_uniform(coder, excess, 1 << length)
    encode_uniform(coder, (high < 0).astype(np.int32), 2)
    encode_uniform(coder, np.array([length]), _LENGTHS)


def decode_levels(coder: Any, rows: int, width: int, classes: Sequence[Class]) -> Quantised:
    """Inverse of `encode_levels`.

    Raises:
        FormatError: if a level is beyond the format's.
    """
    lanes = lanes_of(rows * width)
    levels = np.empty(rows * width, dtype=np.int32)
    quantiser = np.empty(rows * width, dtype=np.uint8)
    state = np.zeros(lanes, dtype=np.uint8)
    models = [_RowModels.of(c) for c in classes]
    for run in _runs(rows, width):
        first = run.start % lanes
        lane = state[first : first + run.stop - run.start]
        q: NDArray[np.uint8] = lane & np.uint8(1)
        k = _decode_run(coder, models[run.row], q)
        levels[run.start : run.stop] = k
        quantiser[run.start : run.stop] = q
        lane[:] = _NEXT.take(2 * lane.astype(np.int16) + (k & 1))
    return Quantised(levels.reshape(rows, width), quantiser.reshape(rows, width))


_NEXT = next_states().reshape(-1)


@dataclass(frozen=True)
class _RowModels:
    """What decoding needs of a row's class: no models where all its numbers are 0."""

    raw_bits: int
    even: Any = None
    odd: Any = None

    @classmethod
    def of(cls, c: Class) -> _RowModels:
        if c.shape == NOTHING:
            return cls(0)
        return cls(c.raw_bits, _level_model(c.table, 0), _level_model(c.table, 1))


def _decode_run(coder: Any, models: _RowModels, quantiser: NDArray[np.uint8]) -> NDArray[np.int32]:
    if models.even is None:
        return np.zeros(len(quantiser), dtype=np.int32)
    raw = models.raw_bits
    if raw:
        symbols: NDArray[np.int32] = coder.decode(models.even, len(quantiser))
    else:
        symbols = np.empty(len(quantiser), dtype=np.int32)
        odd = quantiser.view(np.bool_)
        ones = int(np.count_nonzero(odd))
        symbols[~odd] = coder.decode(models.even, len(quantiser) - ones)
        symbols[odd] = coder.decode(models.odd, ones)
    high = symbols - LEVELS
    if symbols.max() == ESCAPE:
        outside = symbols == ESCAPE
        high[outside] = _decode_escapes(coder, int(outside.sum()), raw)
    if raw:
        high = (high << raw) + decode_uniform(coder, len(high), 1 << raw) - (1 << raw >> 1)
    return high


def _decode_escapes(coder: Any, count: int, raw: int) -> NDArray[np.int32]:
    length = int(decode_uniform(coder, 1, _LENGTHS)[0])
    if length + raw > _LONGEST:
        raise FormatError(f"a level is beyond the format's: its escape has {length} bits above {raw} raw ones")
    sign = 1 - 2 * decode_uniform(coder, count, 2)
    excess = decode_uniform(coder, count, 1 << length)
    return sign * (excess + LEVELS + 1)
