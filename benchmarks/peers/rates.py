"""Curves of bytes over error: between their points, and how far one lies above another.

Between two points log bytes is a monotone cubic (PCHIP) of log error; outside of them nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import expm1, log

import numpy as np
from scipy.interpolate import PchipInterpolator

NARROWEST = 1.1
"""The least ratio of the largest to the least error that a delta rate is of."""


@dataclass(frozen=True)
class Point:
    """An adapter in some bytes.

    Attributes:
        setting: what the coder was asked for.
        error: |dW - dW'| / |dW|.
    """

    setting: str
    bytes: float
    error: float


@dataclass(frozen=True)
class Delta:
    """Bjontegaard's delta rate.

    Attributes:
        rate: of bytes at equal error, in the mean of its logarithm, less one: 0.1 is ten per cent more.
        low, high: the errors that both curves have.
    """

    rate: float
    low: float
    high: float


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points with an error between nothing and all that no other beats in both, by rising error."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.error, point.bytes)):
        if 0 < point.error < 1 and (not kept or point.bytes < kept[-1].bytes and point.error > kept[-1].error):
            kept.append(point)
    return kept


def bytes_at(points: Iterable[Point], error: float) -> float | None:
    """Bytes at an error; None outside of the curve."""
    curve = frontier(points)
    return _between([log(p.error) for p in curve], [log(p.bytes) for p in curve], error)


def error_at(points: Iterable[Point], size: float) -> float | None:
    """The error in so many bytes; None outside of the curve."""
    curve = frontier(points)[::-1]
    return _between([log(p.bytes) for p in curve], [log(p.error) for p in curve], size)


def delta_rate(ours: Iterable[Point], theirs: Iterable[Point]) -> Delta | None:
    """How many more bytes `theirs` takes; None where the curves share too narrow a range of errors."""
    curves = [frontier(points) for points in (ours, theirs)]
    if min(map(len, curves)) < 2:
        return None
    low, high = max(curve[0].error for curve in curves), min(curve[-1].error for curve in curves)
    if high < NARROWEST * low:
        return None
    mean, other = (_cubic(curve).integrate(log(low), log(high)) / log(high / low) for curve in curves)
    return Delta(expm1(float(other - mean)), low, high)


def _cubic(curve: Sequence[Point]) -> PchipInterpolator:
    return PchipInterpolator([log(point.error) for point in curve], [log(point.bytes) for point in curve])


def _between(x: Sequence[float], y: Sequence[float], at: float) -> float | None:
    if len(x) < 2 or not x[0] <= log(at) <= x[-1]:
        return None
    return float(np.exp(PchipInterpolator(x, y)(log(at))))
