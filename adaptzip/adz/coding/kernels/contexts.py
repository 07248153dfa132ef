"""Classes of rows under models that change with each, as in `adaptzip.adz.coding.contexts` (formats/adz-1.md, 6.2).

What is remembered along a bit string is in four arrays: `shapes` (tensors, 2, 7) weights by tensor and whether the row
before is of zeros, `spreads` (tensors, 2, 2) sums and counts by tensor and whether the row is its first, and `starts`
(kinds + 1, tensors + 1): how many tensors the last module of a kind had and the scales of their first rows, of any kind
in the last row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.adz.coding.contexts import FIRST_SCALE, FIRST_SPREAD, SCALES_KEPT, SHAPE_STEP, SHAPES, SHAPES_MOST
from adaptzip.adz.coding.kernels.ans import MASK, WHOLE, pop, push
from adaptzip.adz.coding.kernels.levels import encode as encode_levels
from adaptzip.adz.coding.tables import LARGEST_SCALE_INDEX, NOTHING
from adaptzip.core.compiled import compiled

_SPAN = LARGEST_SCALE_INDEX
_SYMBOLS = NOTHING + 1


@compiled
def interval(weights: Any, symbol: Any, quantile: Any) -> Any:
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
def expected(scales: Any, begins: Any, tensor: Any, row: Any, rows: Any, sixths: Any, before: Any) -> Any:
    """The scale that is expected of a row: `adaptzip.adz.coding.contexts._expected`, within the format's."""
    first, own = begins[0], begins[tensor]
    guess = np.int64(FIRST_SCALE)
    if row:
        guess = scales[own + row - 1]
        if tensor and row < rows[0]:
            guess += scales[first + row] - scales[first + row - 1]
    elif tensor == 0:
        guess = before[1] if before[0] else guess
    elif rows[0]:
        if tensor < before[0]:
            guess = scales[first] + before[1 + tensor] - before[1]
        else:
            guess = scales[first] + ((sixths[0] - sixths[tensor]) >> 1)
    return min(max(guess, np.int64(0)), np.int64(_SPAN))


@compiled
def _told(shapes: Any, tensor: Any, zeros: Any, shape: Any) -> None:
    """Let the model of shapes learn."""
    weights = shapes[tensor, zeros]
    weights[shape] += SHAPE_STEP
    if weights.sum() > SHAPES_MOST:
        weights[:] = (weights + 1) >> 1


@compiled
def _moved(spread: Any, difference: Any) -> None:
    """Let the model of differences learn."""
    spread[0] += abs(difference)
    spread[1] += 1
    if spread[1] > SCALES_KEPT:
        spread[:] = (spread + 1) >> 1


@compiled
def _remembered(scales: Any, begins: Any, rows: Any, starts: Any, kind: Any) -> None:
    """Keep the scales of first rows for modules to come."""
    if not rows.sum():
        return
    for place in (kind, len(starts) - 1):
        starts[place, 0] = len(rows)
        for tensor in range(len(rows)):
            start = np.int64(FIRST_SCALE)
            if rows[tensor]:
                start = scales[begins[tensor]]
            elif rows[0]:
                start = scales[begins[0]]
            starts[place, 1 + tensor] = start


@compiled
def fresh(tensors: Any) -> Any:
    """Memory of a bit string of one module."""
    shapes = np.empty((tensors, 2, _SYMBOLS), np.int64)
    for i, weight in enumerate(SHAPES):
        shapes[:, :, i] = weight
    spreads = np.empty((tensors, 2, 2), np.int64)
    spreads[:, :, 0], spreads[:, :, 1] = FIRST_SPREAD
    return shapes, spreads, np.zeros((1, tensors + 1), np.int64)


@compiled
def decode(
    state: Any, words: Any, begin: Any, count: Any, rows: Any, sixths: Any, memory: Any, kind: Any, found: Any
) -> Any:
    """Decode the classes of a module's rows: the state and the words left.

    Args:
        rows: of each tensor of real numbers.
        sixths: of the width of each: the binary digits of its sixth power.
        memory: `shapes`, `spreads` and `starts`.
        kind: the module's row in `starts`.
        found: (2, all rows) int64 for shapes and scales.
    """
    memory_of_shapes, spreads, starts = memory
    begins = np.cumsum(rows) - rows
    scales, differences = np.empty(rows.sum(), np.int64), np.empty(2 * _SPAN + 1, np.int64)
    before = starts[kind] if starts[kind, 0] else starts[-1]
    for tensor in range(len(rows)):
        zeros = 0
        for row in range(rows[tensor]):
            place = begins[tensor] + row
            guess = expected(scales, begins, tensor, row, rows, sixths, before)
            shape, left, share = interval(memory_of_shapes[tensor, zeros], -1, state & MASK)
            state, count = pop(state, left, share, words, begin, count)
            _told(memory_of_shapes, tensor, zeros, shape)
            zeros, scales[place] = int(shape == NOTHING), guess
            found[0, place], found[1, place] = shape, 0
            if zeros:
                continue
            spread = spreads[tensor, int(row == 0)]
            _differences(spread[0], spread[1], differences)
            difference, left, share = interval(differences, -1, state & MASK)
            state, count = pop(state, left, share, words, begin, count)
            difference -= _SPAN
            _moved(spread, difference)
            scales[place] = found[1, place] = min(max(guess + difference, 0), _SPAN)
    _remembered(scales, begins, rows, starts, kind)
    return state, count


@compiled
def note(rows: Any, sixths: Any, memory: Any, kind: Any, given: Any, notes: Any) -> int:
    """Put the intervals of the classes of a module's rows into `notes` (2, two for each row) uint64, and count them.

    Args:
        given: (2, all rows) int64, shapes and scales.
    """
    memory_of_shapes, spreads, starts = memory
    begins = np.cumsum(rows) - rows
    scales, differences = np.empty(rows.sum(), np.int64), np.empty(2 * _SPAN + 1, np.int64)
    before = starts[kind] if starts[kind, 0] else starts[-1]
    count = 0
    for tensor in range(len(rows)):
        zeros = 0
        for row in range(rows[tensor]):
            place = begins[tensor] + row
            guess = expected(scales, begins, tensor, row, rows, sixths, before)
            shape = given[0, place]
            _, notes[0, count], notes[1, count] = interval(memory_of_shapes[tensor, zeros], shape, np.uint64(0))
            count += 1
            _told(memory_of_shapes, tensor, zeros, shape)
            zeros, scales[place] = int(shape == NOTHING), guess
            if zeros:
                continue
            spread = spreads[tensor, int(row == 0)]
            _differences(spread[0], spread[1], differences)
            difference = given[1, place] - guess
            _, notes[0, count], notes[1, count] = interval(differences, difference + _SPAN, np.uint64(0))
            count += 1
            _moved(spread, difference)
            scales[place] = given[1, place]
    _remembered(scales, begins, rows, starts, kind)
    return count


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
        sixths, classes: as for `note`.
    """
    notes = np.empty((2, 2 * len(tables)), np.uint64)
    noted = note(rows, sixths, fresh(len(rows)), 0, classes, notes)
    state, count = encode_levels(np.uint64(0), 0, levels, quantiser, rows, widths, raw, tables, lefts, words)
    for i in range(noted - 1, -1, -1):
        state, count = push(state, notes[0, i], notes[1, i], words, count)
    return state, count
