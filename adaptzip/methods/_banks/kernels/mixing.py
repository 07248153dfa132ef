"""The search of `adaptzip.methods._banks.mixing` for mixtures of two vectors, piece by piece."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.core.compiled import compiled

F = np.float32
_TINY = np.finfo(np.float32).tiny
_LANES = 64
"""Numbers that are compared at once."""


@compiled
def pairs(products: Any, gram: Any, chosen: Any, weights: Any) -> None:
    """Put the vectors of each piece's mixture into `chosen` (n, 2) int64 and their weights into `weights` (n, 2).

    Args:
        products: (n, h) float32; gram: (h, h), h >= 2.
    """
    h = len(gram)
    square, gain = np.empty(h, np.float32), np.empty(h, np.float32)
    most, block = np.empty(_LANES, np.float32), np.empty(_LANES, np.int32)
    for j in range(h):
        square[j] = gram[j, j]
    for piece in range(len(products)):
        own = products[piece]
        for j in range(h):
            gain[j] = F(own[j] - F(square[j] / F(2)))
        first = _largest(gain, most, block)
        gain[first] = -np.inf
        second = _largest(gain, most, block)
        lowest = F(np.inf)
        for start in (first, second):
            a = start
            for turn in range(2):
                b = _joined(gram[a], own, square, a, gain, most, block)
                share, value = _weighed(gram, own, a, b)
                if value < lowest or (turn == 0 and start == first):
                    lowest = value
                    chosen[piece, 0], chosen[piece, 1] = a, b
                    weights[piece, 0], weights[piece, 1] = _clipped(F(F(1) - share)), _clipped(share)
                a = b


@compiled
def _joined(row: Any, own: Any, square: Any, a: Any, gain: Any, most: Any, block: Any) -> Any:
    """The vector whose segment from vector a comes nearest to the piece; `row` are products with a."""
    norm, aim = row[a], own[a]
    for j in range(len(own)):
        length = F(F(square[j] - F(F(2) * row[j])) + norm)
        length = length if length > _TINY else F(_TINY)
        slope = F(F(F(own[j] - row[j]) - aim) + norm)
        slope = slope if slope > F(0) else F(0)
        share = F(slope / length)
        share = share if share < F(1) else F(1)
        gain[j] = F(share * F(F(F(2) * slope) - F(share * length)))
    gain[a] = -1
    return _largest(gain, most, block)


@compiled
def _largest(gain: Any, most: Any, block: Any) -> Any:
    """The place of the largest number, of equal ones the first.

    Args:
        most, block: (_LANES,) to work in: each lane's largest number, and the block that it is from.
    """
    most[:] = -np.inf
    block[:] = 0
    blocks = len(gain) // _LANES
    for i in range(blocks):
        some = gain[i * _LANES : (i + 1) * _LANES]
        for lane in range(_LANES):
            more = some[lane] > most[lane]
            most[lane] = some[lane] if more else most[lane]
            block[lane] = i if more else block[lane]
    place, largest = 0, gain[0]
    for lane in range(_LANES if blocks else 0):
        at = block[lane] * _LANES + lane
        if most[lane] > largest or (most[lane] == largest and at < place):
            place, largest = at, most[lane]
    for j in range(blocks * _LANES, len(gain)):
        if gain[j] > largest:
            place, largest = j, gain[j]
    return place


@compiled
def _weighed(gram: Any, own: Any, a: Any, b: Any) -> Any:
    """The share of vector b in its best mixture with a, unclipped, and the mixture's value."""
    aa, ab, ba, bb = gram[a, a], gram[a, b], gram[b, a], gram[b, b]
    bend = F(F(F(bb - ba) - ab) + aa)
    right = F(F(F(own[b] - own[a]) - ba) + aa)
    share = F(right / (bend if bend > _TINY else F(_TINY)))
    p, q = _clipped(F(F(1) - share)), _clipped(share)
    first, second = F(F(aa * p) + F(ab * q)), F(F(ba * p) + F(bb * q))
    square = F(F(first * p) + F(second * q))
    return share, F(square - F(F(2) * F(F(own[a] * p) + F(own[b] * q))))


@compiled
def _clipped(x: Any) -> Any:
    return min(max(x, F(0)), F(1))
