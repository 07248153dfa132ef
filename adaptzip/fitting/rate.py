"""A search over one number, the quantiser step, that knows no adapter: what comes of a step is measured for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, copysign, exp, log, log2, sqrt
from typing import TypeVar

TOLERANCE = 0.002
"""A result this close to its limit, as a share of it, ends the search."""
PASSES = 12
"""Most evaluations of one search; each codes the whole adapter or a sample of it."""
_STEEPEST = 0.5
"""What a prediction is off by grows at most as this power of the step."""
_CLOSE = 1e-9
"""Relative accuracy of a step that is solved for; float32, which steps are rounded to, has less."""
_ABOVE = 1 + 2 * _CLOSE
_BEND = 0.2
"""How far a look is moved off the straight line towards the middle; its authors' choice."""
_NOTHING = 1e-300


@dataclass(frozen=True)
class Point:
    """An evaluated step.

    Attributes:
        size: bytes of the file.
        distortion: what `search` limits where it does not limit the size; it grows with the step.
    """

    step: float
    size: float
    distortion: float


P = TypeVar("P", bound=Point)


def search(
    measure: Callable[[float], P],
    predict: Callable[[float], float],
    limit: float,
    *,
    rising: bool,
    bounds: tuple[float, float],
    tolerance: float = TOLERANCE,
    fixed: float = 0.0,
    known: P | None = None,
    either_side: bool = False,
) -> P | None:
    """The best step whose distortion (`rising`) or size is at most `limit`, or None if none was found.

    Args:
        measure: evaluates a step exactly.
        predict: a cheap estimate of the limited quantity at a step; what is measured corrects it.
        limit: the most that the distortion or the size may be.
        rising: whether the distortion is limited, which grows with the step, or the size, which falls.
        bounds: smallest and largest step.
        tolerance: stop when the limited quantity is in ((1 - tolerance) * limit, limit].
        fixed: bytes that no step changes; a limited size is that of the rest.
        known: a step within the bounds that was evaluated already.
        either_side: end at any step that comes as close as the tolerance, even if it is beyond the limit.

    Among the feasible points the smallest size wins when the distortion is limited, the largest when the size is.
    """
    low, high = bounds
    aim = limit if either_side else limit * (1 - tolerance / 2)
    best: P | None = None
    tried: set[float] = set()
    seen: list[tuple[float, float]] = []
    for _ in range(PASSES):
        if known is None:
            step = solve(lambda step: predict(step) * _correction(seen, step), aim, low, high, rising)
            if step in tried or not low * _ABOVE < step < high / _ABOVE:
                step = sqrt(low) * sqrt(high)
            tried.add(step)
            point = measure(step)
        else:
            point, known = known, None
        step = point.step  # As the file will have it, which may be rounded.
        value, predicted = point.distortion if rising else point.size - fixed, predict(step)
        if predicted > 0 and value > 0:
            seen.append((log(step), log(value / predicted)))
        if either_side and abs(value - limit) <= tolerance * limit:
            return point
        feasible = value <= limit
        if feasible and (best is None or (point.size < best.size) == rising):
            best = point
        if feasible and value > limit * (1 - tolerance):
            break
        if feasible == rising:
            low = max(low, step)
        else:
            high = min(high, step)
        if high / low < 1 + tolerance / 2:
            break
    return best


def _correction(seen: Sequence[tuple[float, float]], step: float) -> float:
    """By what a prediction is off at a step: on the line through the last two logarithms that were measured."""
    if not seen:
        return 1.0
    (at, off), slope = seen[-1], 0.0
    if len(seen) > 1 and seen[-2][0] != at:
        slope = (off - seen[-2][1]) / (at - seen[-2][0])
    return exp(off + min(max(slope, -_STEEPEST), _STEEPEST) * (log(step) - at))


def solve(value: Callable[[float], float], aim: float, low: float, high: float, rising: bool) -> float:
    """The step in [low, high] where a monotone `value` passes `aim`, or the end that comes nearest.

    By the ITP method on logarithms (Oliveira and Takahashi, ACM TOMS 47(1), 2020, section 2): where the value is smooth
    in a few looks, and where it jumps in no more than bisection takes, and three.
    """
    a, b = log(low), log(high)
    below, above = (_beyond(value(end), aim, rising) for end in (low, high))
    if below > 0 or above <= 0:
        return low if below > 0 else high
    bend, room = _BEND / max(b - a, _CLOSE), _CLOSE * 2.0 ** ceil(log2(max((b - a) / _CLOSE, 1.0)))
    while b - a > _CLOSE:
        half, reach = (a + b) / 2, room - (b - a) / 2
        line = (above * a - below * b) / (above - below)
        place = line + copysign(min(bend * (b - a) ** 2, abs(half - line)), half - line)
        place = min(max(place, half - reach), half + reach)
        found = _beyond(value(exp(place)), aim, rising)
        if found > 0:
            b, above = place, found
        else:
            a, below = place, found
        room /= 2
    return exp((a + b) / 2)


def _beyond(value: float, aim: float, rising: bool) -> float:
    """How far a value is beyond what is aimed at, in logarithms: positive only if it is."""
    share = (_log(value) - _log(aim)) * (1 if rising else -1)
    return max(share, _NOTHING) if (value > aim) == rising else min(share, 0.0)


def _log(value: float) -> float:
    return log(min(max(value, _NOTHING), 1 / _NOTHING))
