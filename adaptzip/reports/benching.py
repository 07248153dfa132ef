"""Error against bytes: every method at a few sizes, beside the bound and the simple ways to store the factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.core.progress import Progress
from adaptzip.errors import CheckFailedError, RefusedError, UsageError, without_warnings
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.measuring import calibrated_error
from adaptzip.fitting.requests import Original, Request, prepare_job
from adaptzip.fitting.running import Made, run
from adaptzip.methods import fittable
from adaptzip.reports.bounds import Components, components, least_bytes
from adaptzip.reports.yardsticks import Yardstick, yardsticks

SHARES = (0.05, 0.02, 0.01, 0.005)
"""Sizes that are tried where none are given: shares of the source but for its extras, with the packed extras."""
_BOUND_ERRORS = np.geomspace(0.02, 0.95, 80)
_NOTHING = 0.999
"""A relative error from which a file is as good as none."""


@dataclass(frozen=True)
class Point:
    """One file.

    Attributes:
        method: what made it.
        budget: what was asked for, in bytes.
        bytes: of the whole file.
        parameters: stored numbers, extras not counted.
        relative_error: |dW - dW'| / |dW|, plain.
        weighted_error: the same as the base model's activations see it; None without calibration.
        options: the method's options, settled.
        bound: bytes that the Gaussian bound allows at this error, the extras' bytes included; None for no error.
        known_bound: the same for a reader who knows where A began; None where nobody does, and for no error.
    """

    method: str
    budget: int
    bytes: int
    parameters: int
    relative_error: float
    weighted_error: float | None
    options: Mapping[str, Any]
    bound: int | None = None
    known_bound: int | None = None


@dataclass(frozen=True)
class Missed:
    """A method that made nothing of one size, or with budget None of none, and why in one line."""

    method: str
    budget: int | None
    reason: str


@dataclass(frozen=True)
class Bench:
    """Error against bytes.

    Attributes:
        points: files by method, each from large to small.
        missed: what could not be made.
        bound: (relative error, bytes) of the Gaussian bound, the extras' bytes included.
        known_bound: the same for a reader who knows where A began; empty where nobody does.
        yardsticks: simple ways to store the factors, the extras' bytes included.
        source_bytes: of the source's weight file.
        extras_bytes: of the packed extras, which are part of every size here.
    """

    points: tuple[Point, ...]
    missed: tuple[Missed, ...]
    bound: tuple[tuple[float, int], ...]
    yardsticks: tuple[Yardstick, ...]
    source_bytes: int
    extras_bytes: int
    known_bound: tuple[tuple[float, int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The bench as JSON values."""
        return {
            "source_bytes": self.source_bytes,
            "extras_bytes": self.extras_bytes,
            "points": [{**asdict(point), "options": dict(point.options)} for point in self.points],
            "missed": [asdict(row) for row in self.missed],
            "bound": _as_rows(self.bound),
            "known_bound": _as_rows(self.known_bound),
            "yardsticks": [asdict(row) for row in self.yardsticks],
        }


def bench(
    source: str | Path | Adapter,
    request: Request | None = None,
    *,
    methods: Sequence[str] = (),
    sizes: Sequence[str | Budget] = (),
    progress: Progress | None = None,
) -> Bench:
    """Compress an adapter with every method at some sizes, and measure; nothing is written.

    Of a method with several settings, the one that it expects most of is fitted alone.

    Args:
        source: a checkpoint's path, or an adapter that was read already.
        request: extras, device, seed, base, basis and calibration; its method, budget and error are ignored.
        methods: names of the methods, or none for all.
        sizes: budgets in bytes or as shares of the source; none for `SHARES`.
        progress: called with what is being made and the share of all that is done.

    Raises:
        CheckpointError, RefusedError, BaseModelError: if something can't be read.
        UsageError: if a method is unknown or a size counts parameters.
    """
    plain = replace(request or Request(), budget=None, max_error=None, ranks=None, allocate=None, options={})
    loaded = load_source(source, plain)
    targets = _targets(sizes or _usual(loaded), loaded.bytes)
    chosen = tuple(methods) or fittable()
    points: list[Point] = []
    missed: list[Missed] = []
    for number, name in enumerate(chosen):
        found, failed = _method(loaded, replace(plain, to=name), targets, _part(progress, name, number, len(chosen)))
        points += found
        missed += failed
    extras, known = len(loaded.extras.payload), components(loaded.adapter, loaded.frames)
    errors, parts = [point.relative_error for point in points], known.unknown
    told = loaded.frames is not None
    return Bench(
        points=tuple(
            replace(
                point,
                bound=_bound_at(parts, extras, point.relative_error),
                known_bound=_bound_at(known, extras, point.relative_error) if told else None,
            )
            for point in points
        ),
        missed=tuple(missed),
        bound=_bound(parts, extras, errors),
        known_bound=_bound(known, extras, errors) if told else (),
        yardsticks=tuple(replace(row, bytes=row.bytes + extras) for row in yardsticks(loaded.adapter)),
        source_bytes=loaded.bytes,
        extras_bytes=extras,
    )


def _as_rows(bound: Sequence[tuple[float, int]]) -> list[dict[str, Any]]:
    return [{"relative_error": error, "bytes": size} for error, size in bound]


def _method(
    source: Original, request: Request, targets: Sequence[int], progress: Progress | None
) -> tuple[list[Point], list[Missed]]:
    """One method at every size; what stands in its way at any size is said once."""
    try:
        job = prepare_job(source, request)
    except RefusedError as error:
        return [], [Missed(request.to, None, str(error))]
    points: list[Point] = []
    missed: list[Missed] = []
    for number, target in enumerate(targets):
        if progress is not None:
            progress("", number / len(targets))
        asked = replace(job, request=replace(request, budget=Budget(target, "bytes")))
        try:
            with without_warnings():
                made = run(asked, most=1)
        except RefusedError as error:
            return points, [*missed, Missed(request.to, None, str(error))]
        except CheckFailedError as error:
            missed.append(Missed(request.to, target, str(error)))
            continue
        if made.error < _NOTHING:
            points.append(_point(source, request, target, made))
        else:
            missed.append(Missed(request.to, target, f"what fits leaves a relative error of {made.error:.4g}"))
    return points, missed


def _point(source: Original, request: Request, target: int, made: Made) -> Point:
    compressed = made.compressed
    return Point(
        method=compressed.method,
        budget=target,
        bytes=made.size,
        parameters=compressed.provenance.parameters,
        relative_error=compressed.provenance.relative_error,
        weighted_error=calibrated_error(source, compressed, request),
        options=compressed.config,
    )


def _usual(source: Original) -> list[Budget]:
    """The sizes of `SHARES`: no method changes what extras take."""
    update = max(0, source.bytes - sum(tensor.nbytes for tensor in source.adapter.extras.values()))
    return [Budget(len(source.extras.payload) + share * update, "bytes") for share in SHARES]


def _targets(sizes: Sequence[str | Budget], source_bytes: int) -> list[int]:
    """Sizes in bytes, the largest first."""
    found: list[int] = []
    for size in sizes:
        target = (Budget.parse(size) if isinstance(size, str) else size).bytes_for(source_bytes)
        if target is None:
            raise UsageError(f"size {size} counts parameters, not bytes", hint="write 64KiB, 2% or 100x")
        found.append(target)
    return sorted(set(found), reverse=True)


def _bound(parts: Components, extras: int, errors: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """The bound over the errors that were met, and a little beyond."""
    if parts.energy.sum() <= 0 or not errors:
        return ()
    low, high = 0.8 * min(errors), 1.1 * max(errors)
    met = [float(error) for error in _BOUND_ERRORS if low <= error <= high] or sorted(errors)
    return tuple((round(error, 4), size) for error in met if (size := _bound_at(parts, extras, error)) is not None)


def _bound_at(parts: Components, extras: int, error: float) -> int | None:
    return round(least_bytes(parts, error)) + extras if error > 0 else None


def _part(progress: Progress | None, name: str, number: int, count: int) -> Progress | None:
    """The progress of one method among all."""
    if progress is None:
        return None
    return lambda phase, share: progress(name, (number + share) / count)
