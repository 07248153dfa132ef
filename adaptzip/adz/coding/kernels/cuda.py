"""Decoding the levels of many modules on a GPU: a Triton program for each, which is as sequential as its bit string.

The numbers are those of `adaptzip.adz.coding.kernels.lanes`. This file needs triton, and is imported where it has work.

What one number waits for is one load, that of its model by the highest bits of its quantile; where those don't tell its
symbol, one more for each symbol that is passed. The next word is loaded meanwhile, since its place is known before the
number is, and the trellis is computed. `adaptzip.adz.coding.on_gpu` counts what that takes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from adaptzip.adz.coding.kernels.lanes import NEARLY_BITS
from adaptzip.adz.coding.kernels.levels import LENGTHS, LONGEST
from adaptzip.adz.coding.tables import LEVELS
from adaptzip.adz.coding.trellis import PARITY_CHECK

_MOST = tl.constexpr(LEVELS)
_LENGTHS = tl.constexpr(LENGTHS)
_LONGEST = tl.constexpr(LONGEST)
_NEARLY = tl.constexpr(NEARLY_BITS)
_FED_BACK = tl.constexpr(PARITY_CHECK[0] >> 1)
_BY_PARITY = tl.constexpr(PARITY_CHECK[1] >> 1)
_WHOLE = tl.constexpr(2**24)
_MASK = tl.constexpr(2**24 - 1)
_LEAST = tl.constexpr(2**32)
_BOUND = tl.constexpr(2.0**51)
"""What the squares of a row stay below: half of `adaptzip.adz.coding.decoding.MOST_SQUARES`, as they are estimated."""


@triton.jit
def _quantile(state: tl.tensor) -> tl.tensor:
    return (state & _MASK).to(tl.int32)


@triton.jit
def _pop(state: tl.tensor, share: tl.tensor, beyond: tl.tensor, word: tl.tensor, left: tl.tensor) -> tl.tensor:
    """Take off a symbol whose interval is `share` wide and begins `beyond` before the quantile: the state, and words.

    Args:
        word: the next.
        left: how many words there are.
    """
    state = (state >> 24) * share.to(tl.uint64) + beyond.to(tl.uint64)
    more = (state < _LEAST) & (left > 0)
    return tl.where(more, (state << 32) | word.to(tl.uint64), state), left - more.to(tl.int32)


@triton.jit
def _pop_bits(state: tl.tensor, bits: tl.tensor, words: tl.tensor, left: tl.tensor) -> tl.tensor:
    """A uniform number of so many bits. Of none it is 0, and the state stays: while words are left it is not small."""
    word, quantile = tl.load(words + left), _quantile(state)
    share = (bits * 0 + _WHOLE) >> bits
    state, left = _pop(state, share, quantile & (share - 1), word, left)
    return quantile >> (24 - bits), state, left


@triton.jit
def _pop_length(state: tl.tensor, words: tl.tensor, left: tl.tensor) -> tl.tensor:
    """How many bits an escape has."""
    word, quantile, unit = tl.load(words + left), _quantile(state), _WHOLE // _LENGTHS
    number = tl.minimum(quantile // unit, _LENGTHS - 1)
    share = tl.where(number == _LENGTHS - 1, _WHOLE - (_LENGTHS - 1) * unit, unit)
    state, left = _pop(state, share, quantile - number * unit, word, left)
    return number, state, left


@triton.jit
def _share(model: tl.tensor) -> tl.tensor:
    """How wide the interval of a packed model is."""
    return ((model >> 24) & _MASK).to(tl.int32)


@triton.jit
def _symbol(
    state: tl.tensor, table: tl.tensor, nearly: tl.tensor, models: tl.tensor, words: tl.tensor, left: tl.tensor
) -> tl.tensor:
    """The next symbol under a table."""
    word, quantile = tl.load(words + left), _quantile(state)
    model = tl.load(nearly + ((table << _NEARLY) | (quantile >> (24 - _NEARLY))))
    share, beyond = _share(model), quantile - _quantile(model)
    symbol = (model >> 58).to(tl.int32)
    while beyond >= share:
        symbol += 1
        model = tl.load(models + ((table << 6) | symbol))
        share, beyond = _share(model), quantile - _quantile(model)
    state, left = _pop(state, share, beyond, word, left)
    return symbol, state, left


@triton.jit
def _level(
    state: tl.tensor,
    table: tl.tensor,
    raw: tl.tensor,
    nearly: tl.tensor,
    models: tl.tensor,
    words: tl.tensor,
    left: tl.tensor,
) -> tl.tensor:
    """The next level, and whether it is within the format's."""
    symbol, state, left = _symbol(state, table, nearly, models, words, left)
    level, right = symbol - _MOST, symbol >= 0
    if level > _MOST:
        length, state, left = _pop_length(state, words, left)
        right = length + raw <= _LONGEST
        length = tl.where(right, length, 0)
        negative, state, left = _pop_bits(state, length * 0 + 1, words, left)
        excess, state, left = _pop_bits(state, length, words, left)
        level = _MOST + ((length * 0 + 1) << length) + excess
        level = tl.where(negative > 0, -level, level)
    if raw > 0:
        low, state, left = _pop_bits(state, raw, words, left)
        level = (level << raw) + low - ((raw * 0 + 1) << (raw - 1))
    return level, right, state, left


@triton.jit
def _after(trellis: tl.tensor, level: tl.tensor) -> tl.tensor:
    return (trellis >> 1) ^ ((trellis & 1) * _FED_BACK) ^ ((level & 1) * _BY_PARITY)


@triton.jit
def _value(level: tl.tensor, q: tl.tensor) -> tl.tensor:
    """In steps."""
    return (2 * level - tl.where(level > 0, q, tl.where(level < 0, -q, 0))).to(tl.float32)


@triton.jit
def decode(
    words: tl.tensor,
    jobs: tl.tensor,
    first_rows: tl.tensor,
    places: tl.tensor,
    rows: tl.tensor,
    nearly: tl.tensor,
    models: tl.tensor,
    out: tl.tensor,
    whole: tl.tensor,
) -> None:
    """Decode the numbers of the job that this program is; all but the last two are as for `lanes.decode`.

    Args:
        out: float32, zeros; numbers in steps.
        whole: (jobs,) int32, zeros: 1 where all levels are within the format's, no bits are left, and no row is so long
            that its length might not be exact.
    """
    job = tl.program_id(0)
    state, begin = tl.load(jobs + 3 * job), tl.load(jobs + 3 * job + 1).to(tl.int64)
    left = (tl.load(jobs + 3 * job + 2).to(tl.int64) - begin).to(tl.int32)
    own_words, at = words + begin, out + tl.load(places + job)
    trellis = tl.load(whole + job)
    right = trellis == 0
    row, last = tl.load(first_rows + job), tl.load(first_rows + job + 1)
    while (row < last) & right:
        first, raw = tl.load(rows + 4 * row).to(tl.int32), tl.load(rows + 4 * row + 1).to(tl.int32)
        width = tl.load(rows + 4 * row + 2).to(tl.int32)
        trellis = tl.where(tl.load(rows + 4 * row + 3) > 0, 0, trellis)
        largest, i = width * 0, width * 0
        while (i < width) & right:
            q = trellis & 1
            level = q * 0
            if first >= 0:
                table = first + tl.where(raw > 0, 0, q)
                level, right, state, left = _level(state, table, raw, nearly, models, own_words, left)
                largest = tl.maximum(largest, tl.abs(level))
                tl.store(at + i, _value(level, q))
            trellis = _after(trellis, level)
            i += 1
        longest = 2.0 * largest.to(tl.float64)
        right = right & (longest * longest * width.to(tl.float64) < _BOUND)
        at += width
        row += 1
    tl.store(whole + job, (right & (state == 0) & (left == 0)).to(tl.int32))
