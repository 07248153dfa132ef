"""A search over one number, the quantiser step, that knows no adapter: what comes of a step is measured for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log
from typing import TypeVar

TOLERANCE = 0.002
"""A result this close to its limit, as a share of it, ends the search."""
PASSES = 12
"""Most evaluations of one search; each codes the whole adapter or a sample of it."""


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
) -> P | None:
    """The best step whose distortion (`rising`) or size is at most `limit`, or None if none was found.

    Args:
        measure: evaluates a step exactly.
        predict: a cheap estimate of the limited quantity at a step; each measurement rescales it.
        limit: the most that the distortion or the size may be.
        rising: whether the distortion is limited, which grows with the step, or the size, which falls.
        bounds: smallest and largest step.
        tolerance: stop when the limited quantity is in ((1 - tolerance) * limit, limit].
        fixed: bytes that no step changes; a limited size is that of the rest.

    Among the feasible points the smallest size wins when the distortion is limited, the largest when the size is.
    """
    low, high = bounds
    aim, correction = limit * (1 - tolerance / 2), 1.0
    best: P | None = None
    tried: set[float] = set()
    for _ in range(PASSES):
        step = solve(predict, aim / correction, low, high, rising)
        if step in tried or not low < step < high:
            step = (low * high) ** 0.5
        tried.add(step)
        point = measure(step)
        value, predicted = point.distortion if rising else point.size - fixed, predict(step)
        correction = value / predicted if predicted > 0 and value > 0 else 1.0
        feasible = value <= limit
        if feasible and (best is None or (point.size < best.size) == rising):
            best = point
        if feasible and value > limit * (1 - tolerance):
            break
        if feasible == rising:
            low = step
        else:
            high = step
        if high / low < 1 + tolerance / 2:
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
