"""Rows: what a method makes of a fleet at a setting, and plain files in the same bytes beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from adaptzip.fitting.requests import Original
from benchmarks import results
from benchmarks.fleet.entries import Entry
from benchmarks.fleet.gains import gain
from benchmarks.fleet.made import Made
from benchmarks.storage import error_of


@dataclass(frozen=True)
class Told:
    """Of some adapters.

    Attributes:
        worst, median, rms: relative errors of dW; the root of the mean square over adapters.
        gain, low: the median and the 10th percentile of the shares of the teachers' gain; None where nobody trained
            them.
    """

    count: int
    worst: float
    median: float
    rms: float
    gain: float | None
    low: float | None


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        of: adapters of the fleet, of which `held` can be held.
        bytes: of all files.
        shared: of these, what several adapters need.
        members: those that shared parts are made of.
        left_out: the others.
        error: what plain files were asked for.
        beside: the method and setting whose bytes plain files were made in; "" for others.
    """

    kind: str
    method: str
    setting: str
    of: int
    held: int
    bytes: int
    shared: int
    members: Told
    left_out: Told | None
    error: float | None = None
    beside: str = ""


def read(path: Path) -> list[Row]:
    """The rows of a file of results; none where there is no such file."""

    def row(**given: Any) -> Row:
        return Row(**{**given, **{side: given[side] and Told(**given[side]) for side in ("members", "left_out")}})

    return results.read(path, row)


def told(
    entries: Sequence[Entry],
    sources: Mapping[str, Original],
    made: Made,
    material: Path,
    every: int = 1,
) -> Told | None:
    """Errors of all that are held, and gains of one in so many; None where none is held."""
    held = [entry for entry in entries if entry.name in made.adapters]
    if not held:
        return None
    errors = [error_of(sources[entry.name].adapter, made.adapters[entry.name].modules) for entry in held]
    gains = [
        gain(made.adapters[entry.name], entry.trained, material) for entry in held[::every] if entry.trained is not None
    ]
    rms = sqrt(sum(error * error for error in errors) / len(errors))
    return Told(len(held), max(errors), median(errors), rms, _median(gains), _low(gains))


def _median(gains: Sequence[float]) -> float | None:
    return median(gains) if gains else None


def _low(gains: Sequence[float]) -> float | None:
    """The 10th percentile."""
    return quantiles(gains, n=10, method="inclusive")[0] if len(gains) > 1 else None


def error_in(bytes_at: Mapping[float, int], size: float) -> float | None:
    """The error at which plain files take so many bytes, by what they take at some errors.

    Log bytes are a straight line of the error between two of them. Where there are more bytes than the least error
    takes, it is that; None where there are fewer than the largest takes.
    """
    curve = sorted((log(found), error) for error, found in bytes_at.items())
    sizes, errors = zip(*curve, strict=True)
    if log(size) < sizes[0]:
        return None
    return float(np.interp(log(size), sizes, errors))
