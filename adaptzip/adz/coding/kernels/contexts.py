"""Classes of rows under models that change with each, as in `adaptzip.adz.coding.contexts` (formats/adz-1.md, 6.2).

Of one module: what a group remembers from module to module is not needed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.adz.coding.contexts import FIRST_SCALE, FIRST_SPREAD, SCALES_KEPT, SHAPE_STEP, SHAPES, SHAPES_MOST
from adaptzip.adz.coding.kernels.ans import MASK, WHOLE, pop, push
from adaptzip.adz.coding.kernels.levels import encode as encode_levels
from adaptzip.adz.coding.tables import LARGEST_SCALE_INDEX, NOTHING
from adaptzip.core.compiled import compiled

STATE, COUNT = range(2)
"""Places in a stack."""
_SPAN = LARGEST_SCALE_INDEX
_SYMBOLS = NOTHING + 1


@compiled
def _interval(weights: Any, symbol: Any, quantile: Any) -> Any:
    """A symbol under whole weights, where its interval begins and how wide it is; for -1, that of a quantile."""
    size, total = len(weights), np.int64(0)
    for weight in weights:
        total += weight
    unit = (2.0**24 - size) / np.float64(total)
    before, left = np.int64(0), np.uint64(0)
    for i in range(size):
        before += weights[i]
        right = WHOLE if i == size - 1 else np.uint64(np.floor(np.float64(before) * unit)) + np.uint64(i + 1)
        if i == symbol or (symbol < 0 and quantile < right):
            return i, left, right - left
        left = right
    return size, left, np.uint64(0)  # No quantile is beyond the last interval.


@compiled
def _differences(total: Any, count: Any, weights: Any) -> None:
    """Weights (2 * span + 1,) of differences of scales."""
    weight = np.int64(2**20)
    for i in range(_SPAN + 1):
        weights[_SPAN + i] = weights[_SPAN - i] = weight + 16
        weight = weight * total // (total + count) if weight else weight


@compiled
def _expected(scales: Any, begins: Any, tensor: Any, row: Any, rows: Any, sixths: Any) -> Any:
    """The scale that is expected of a row, within the format's; no module came before."""
    first, own = begins[0], begins[tensor]
    guess = np.int64(FIRST_SCALE)
    if row:
        guess = scales[own + row - 1]
        if tensor and row < rows[0]:
            guess += scales[first + row] - scales[first + row - 1]
    elif tensor and rows[0]:
        guess = scales[first] + ((sixths[0] - sixths[tensor]) >> 1)
    return min(max(guess, np.int64(0)), np.int64(_SPAN))


@compiled
def _told(weights: Any, shape: Any) -> None:
    """Let a model of shapes learn."""
    weights[shape] += SHAPE_STEP
    total = np.int64(0)
    for weight in weights:
        total += weight
    if total > SHAPES_MOST:
        for i in range(len(weights)):
            weights[i] = (weights[i] + 1) >> 1


@compiled
def _moved(spread: Any, difference: Any) -> None:
    """Let a model of differences learn."""
    spread[0] += abs(difference)
    spread[1] += 1
    if spread[1] > SCALES_KEPT:
        spread[0], spread[1] = (spread[0] + 1) >> 1, (spread[1] + 1) >> 1


@compiled
def _coded(weights: Any, symbol: Any, stack: Any, words: Any, begin: Any, notes: Any) -> Any:
    """Note a symbol, or for -1 take the next off the stack: the symbol."""
    symbol, left, share = _interval(weights, symbol, stack[STATE] & MASK)
    if len(notes):
        notes[stack[COUNT], 0], notes[stack[COUNT], 1] = left, share
        stack[COUNT] += np.uint64(1)
    else:
        state, count = pop(stack[STATE], left, share, words, begin, np.int64(stack[COUNT]))
        stack[STATE], stack[COUNT] = state, count
    return symbol


@compiled
def _code(rows: Any, sixths: Any, classes: Any, stack: Any, words: Any, begin: Any, notes: Any) -> None:
    """Go through the classes of a module's rows: note those given, or without `notes` decode them.

    Args:
        rows: of each tensor of real numbers.
        sixths: of the width of each: the binary digits of its sixth power.
        classes: (2, all rows) int64, shapes and scales.
        stack: (2,) uint64, the state and the words left, or how many are noted.
        notes: (symbols, 2) uint64, where intervals begin and how wide they are.
    """
    # Loops over single numbers, here and above: numba takes seconds to compile what works on whole arrays.
    shapes, spreads = np.empty((len(rows), 2, _SYMBOLS), np.int64), np.empty((len(rows), 2, 2), np.int64)
    begins, count = np.empty(len(rows), np.int64), np.int64(0)
    for tensor in range(len(rows)):
        begins[tensor] = count
        count += rows[tensor]
        for which in range(2):
            spreads[tensor, which, 0], spreads[tensor, which, 1] = FIRST_SPREAD
            for i, weight in enumerate(SHAPES):
                shapes[tensor, which, i] = weight
    scales, differences = np.empty(count, np.int64), np.empty(2 * _SPAN + 1, np.int64)
    given = len(notes) > 0
    for tensor in range(len(rows)):
        zeros = 0
        for row in range(rows[tensor]):
            place = begins[tensor] + row
            guess = _expected(scales, begins, tensor, row, rows, sixths)
            weights = shapes[tensor, zeros]
            shape = _coded(weights, classes[0, place] if given else -1, stack, words, begin, notes)
            _told(weights, shape)
            zeros, scales[place] = int(shape == NOTHING), guess
            if zeros:
                classes[0, place], classes[1, place] = NOTHING, 0
                continue
            spread = spreads[tensor, int(row == 0)]
            _differences(spread[0], spread[1], differences)
            asked = classes[1, place] - guess + _SPAN if given else -1
            difference = _coded(differences, asked, stack, words, begin, notes) - _SPAN
            _moved(spread, difference)
            scales[place] = min(max(guess + difference, 0), _SPAN)
            classes[0, place], classes[1, place] = shape, scales[place]


@compiled
def decode(stack: Any, words: Any, begin: Any, rows: Any, sixths: Any, found: Any) -> None:
    """Decode the classes of a module's rows into `found`; all as for `_code`."""
    _code(rows, sixths, found, stack, words, begin, np.empty((0, 2), np.uint64))


@compiled
def encode(
    levels: Any,
    quantiser: Any,
    rows: Any,
    widths: Any,
    sixths: Any,
    classes: Any,
    raw: Any,
    tables: Any,
    lefts: Any,
    words: Any,
) -> Any:
    """Encode a module of real numbers, but for its rank: state, and how many words are in `words`.

    Args:
        levels, quantiser, rows, widths, raw, tables, lefts: as for `levels.encode`.
        sixths, classes: as for `_code`.
    """
    stack, notes = np.zeros(2, np.uint64), np.empty((2 * len(tables) + 1, 2), np.uint64)
    _code(rows, sixths, classes, stack, words, 0, notes)
    state, count = encode_levels(np.uint64(0), 0, levels, quantiser, rows, widths, raw, tables, lefts, words)
    for i in range(np.int64(stack[COUNT]) - 1, -1, -1):
        state, count = push(state, notes[i, 0], notes[i, 1], words, count)
    return state, count
