"""Rate control by one number: the quantiser step that meets a size or an error, found on the exact coded size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

TOLERANCE = 0.002
"""A result this close to its limit, as a share of it, ends the search."""
PASSES = 12
"""Most evaluations of one search; each codes the whole adapter or a sample of it."""


@dataclass(frozen=True)
class Point:
    """An evaluated step: what it costs and the limited quantity there."""

    step: float
    size: float
    value: float


def search(
    measure: Callable[[float], Point],
    predict: Callable[[float], float],
    limit: float,
    *,
    rising: bool,
    bounds: tuple[float, float],
    tolerance: float = TOLERANCE,
) -> Point | None:
    """The best step whose `value` is at most `limit`, or None if none was found.

    Args:
        measure: evaluates a step exactly.
        predict: a cheap estimate of `value` at a step; each measurement rescales it.
        limit: the most that `value` may be.
        rising: whether `value` grows with the step (an error) or falls (a size).
        bounds: smallest and largest step.
        tolerance: stop when value is in ((1 - tolerance) * limit, limit].

    Among the feasible points the smallest size wins when the value is an error, the largest when it is a size.
    """
    low, high = bounds
    aim, correction = limit * (1 - tolerance / 2), 1.0
    best: Point | None = None
    tried: set[float] = set()
    for _ in range(PASSES):
        step = solve(predict, aim / correction, low, high, rising)
        if step in tried or not low < step < high:
            step = (low * high) ** 0.5
        tried.add(step)
        point = measure(step)
        correction = point.value / predict(step) if predict(step) > 0 and point.value > 0 else 1.0
        feasible = point.value <= limit
        if feasible and (best is None or (point.size < best.size) == rising):
            best = point
        if feasible and point.value > limit * (1 - tolerance):
            break
        if feasible == rising:
            low = step
        else:
            high = step
        if high / low < 1 + tolerance / 10:
            break
    return best


def solve(value: Callable[[float], float], aim: float, low: float, high: float, rising: bool) -> float:
    """The step in [low, high] where a monotone `value` passes `aim`, by bisection of its logarithm."""
    a, b = log(low), log(high)
    for _ in range(40):
        middle = (a + b) / 2
        if (value(exp(middle)) > aim) == rising:
            b = middle
        else:
            a = middle
    return exp((a + b) / 2)
