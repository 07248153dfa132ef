"""Coding levels as `adaptzip.adz.coding.levels` does, on the coder's state and words (formats/adz-1.md, 5.1).

Of each row there are its raw bits and its table; a table below 0 stands for a row of zeros. `lefts` has of each table,
quantiser and symbol where its interval begins, and 2^24; `guesses` the first symbol that may hold a quantile, by its
highest bits. Both are flat.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.adz.coding.kernels.ans import MASK, pop, pop_uniform, push, push_uniform
from adaptzip.adz.coding.tables import LEVELS
from adaptzip.adz.coding.trellis import PARITY_CHECK
from adaptzip.core.compiled import compiled

GUESSED_BITS = 8
"""Bits of a quantile that `guesses` are found by."""
LENGTHS = 24
LONGEST = 20
_ESCAPE = 2 * LEVELS + 1
_COLUMNS = 2 * LEVELS + 3
_PLACES = 2**GUESSED_BITS
_FED_BACK = PARITY_CHECK[0] >> 1
_BY_PARITY = PARITY_CHECK[1] >> 1
_UNGUESSED = np.uint64(24 - GUESSED_BITS)


@compiled
def _push_number(state: Any, level: Any, raw: Any, lefts: Any, at: Any, words: Any, count: Any) -> Any:
    """Encode what follows a symbol, and the symbol; `at` is where its model begins."""
    high = np.int64(level)
    if raw:
        high += 1 << (raw - 1)
        state, count = push_uniform(state, high & ((1 << raw) - 1), 1 << raw, words, count)
        high >>= raw
    symbol = np.int64(high + LEVELS)
    if abs(high) > LEVELS:
        symbol = np.int64(_ESCAPE)
        excess, length = abs(high) - LEVELS, 0
        while excess >> (length + 1):
            length += 1
        state, count = push_uniform(state, excess - (1 << length), 1 << length, words, count)
        state, count = push_uniform(state, 1 if high < 0 else 0, 2, words, count)
        state, count = push_uniform(state, length, LENGTHS, words, count)
    left = np.uint64(lefts[at + symbol])
    return push(state, left, np.uint64(lefts[at + symbol + 1]) - left, words, count)


@compiled
def encode(
    state: Any,
    count: Any,
    levels: Any,
    quantiser: Any,
    rows: Any,
    widths: Any,
    raw: Any,
    tables: Any,
    lefts: Any,
    words: Any,
) -> Any:
    """Encode the levels of some tensors, one after another in `levels` and `quantiser`: state, and words in `words`.

    Args:
        rows, widths: of each tensor.
        raw, tables: of each row of all.
    """
    at, row = len(levels), len(tables)
    for tensor in range(len(rows) - 1, -1, -1):
        for _ in range(rows[tensor]):
            row -= 1
            first = at - widths[tensor]
            if tables[row] >= 0:
                for i in range(at - 1, first - 1, -1):
                    q = 0 if raw[row] else np.int64(quantiser[i])
                    model = (2 * tables[row] + q) * _COLUMNS
                    state, count = _push_number(state, levels[i], raw[row], lefts, model, words, count)
            at = first
    return state, count


@compiled
def pop_rest(state: Any, high: Any, raw: Any, words: Any, begin: Any, count: Any) -> Any:
    """What follows a symbol in rows of raw bits, and after an escape; a level beyond the format's for one too long."""
    if high > LEVELS:
        length, state, count = pop_uniform(state, LENGTHS, words, begin, count)
        if length + raw > LONGEST:
            return np.int64(length) << 32, state, count
        negative, state, count = pop_uniform(state, 2, words, begin, count)
        excess, state, count = pop_uniform(state, 1 << length, words, begin, count)
        high = LEVELS + (1 << length) + excess
        high = -high if negative else high
    if raw:
        low, state, count = pop_uniform(state, 1 << raw, words, begin, count)
        high = (high << raw) + low - (1 << (raw - 1))
    return high, state, count


@compiled
def decode(
    state: Any, words: Any, count: int, raw: Any, tables: Any, lefts: Any, guesses: Any, levels: Any, quantiser: Any
) -> Any:
    """Decode levels and quantisers (rows, width); the state, the words left, and 0 or the length of a wrong escape.

    Args:
        words, count: of which so many are left; one stands before them.
    """
    rows, width = levels.shape
    trellis = np.int64(0)
    for row in range(rows):
        bits, first = raw[row], 2 * tables[row]
        for i in range(width):
            q = trellis & 1
            k = np.int64(0)
            if first >= 0:
                table = first + (0 if bits else q)
                quantile = state & MASK
                at = table * _COLUMNS + np.int64(guesses[table * _PLACES + np.int64(quantile >> _UNGUESSED)])
                while np.uint64(lefts[at + 1]) <= quantile:
                    at += 1
                left = np.uint64(lefts[at])
                state, count = pop(state, left, np.uint64(lefts[at + 1]) - left, words, 0, count)
                k = at - table * _COLUMNS - LEVELS
                if k > LEVELS or bits:
                    k, state, count = pop_rest(state, k, bits, words, 0, count)
                    if k >> 32 > 0:
                        return state, count, k >> 32
            levels[row, i] = k
            quantiser[row, i] = q
            trellis = (trellis >> 1) ^ (q * _FED_BACK) ^ ((k & 1) * _BY_PARITY)
    return state, count, 0
