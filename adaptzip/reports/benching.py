"""Error against bytes: every method at a few sizes, beside the bound and the simple ways to store the factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.budget import AnyBudget, Budget, Counted
from adaptzip.core.calling import public
from adaptzip.core.effort import Effort
from adaptzip.core.progress import Progress
from adaptzip.errors import CheckFailedError, RefusedError, UsageError, without_warnings
from adaptzip.fitting.candidates import bare_size
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.measuring import calibrated_error
from adaptzip.fitting.requests import Original, Request, prepare_job
from adaptzip.fitting.running import Made, run
from adaptzip.methods import REFERENCE, fittable
from adaptzip.models.hub import base_path
from adaptzip.reports.bench_results import Bench, Missed, Point
from adaptzip.reports.bounds import Components, components, least_bytes
from adaptzip.reports.yardsticks import yardsticks

SHARES = (0.05, 0.02, 0.01, 0.005)
"""Sizes that are tried where none are given: shares of the source but for its extras, with the packed extras."""
_BOUND_ERRORS = np.geomspace(0.02, 0.95, 80)
_ROOM = 1.25
"""How many times what a file takes besides its blocks the smallest size is that is tried of itself."""
_NOTHING = 0.999
"""A relative error from which a file is as good as none."""


@public
def bench(
    source: str | Path | Adapter,
    *,
    methods: Sequence[str] = (),
    budgets: Sequence[AnyBudget] = (),
    extras: ExtrasMode = "lossless",
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    embed_basis: bool = False,
    start: str | Path | None = None,
    effort: Effort = "default",
    calibration: str | Path | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Compress an adapter with every method at some sizes, and measure; nothing is written.

    Of a method with several settings, the one that it expects most of is fitted alone.

    Args:
        source: a checkpoint's path, or an adapter that was read already.
        methods: names of the methods, or none for all.
        budgets: sizes, all of them in bytes or shares of the source, or all in parameters; none for 5, 2, 1 and 0.5 %
            of the source besides extras, or where these are too small for any file for four sizes that are not.
        extras, alpha, config, dialect, device, seed, base, basis, embed_basis, start, effort, calibration, text_field,
            pair_field, completion_field: as for `compress`.
        progress: told how far it is (`adaptzip.core.progress.Progress`).

    Raises:
        CheckpointError, RefusedError, BaseModelError: if something can't be read.
        UsageError: if a method is unknown, or some sizes count parameters and others do not.

    Example:
        >>> found = adaptzip.bench("my-adapter", methods=["svd"], budgets=["60%"])
        >>> found.points[0].method, found.points[0].bytes <= 0.6 * found.source_bytes
        ('svd', True)
    """
    request = Request(
        extras=extras,
        alpha=alpha,
        config=config,
        dialect=dialect,
        device=device,
        seed=seed,
        base=base_path(base),
        basis=basis,
        embed_basis=embed_basis,
        start=start,
        effort=effort,
        calibration=calibration,
        text_field=text_field,
        pair_field=pair_field,
        completion_field=completion_field,
    )
    return bench_of(source, request, methods=methods, sizes=budgets, progress=progress)


def bench_of(
    source: str | Path | Adapter,
    request: Request | None = None,
    *,
    methods: Sequence[str] = (),
    sizes: Sequence[AnyBudget] = (),
    progress: Progress | None = None,
) -> Bench:
    """`bench` as a request says.

    Args:
        source: a checkpoint's path, or an adapter that was read already.
        request: extras, device, seed, base, basis and calibration; its method, budget and error are ignored.
        methods: names of the methods, or none for all.
        sizes: budgets, as for `bench`; none for `SHARES`.
        progress: told how far it is (`adaptzip.core.progress.Progress`).

    Raises:
        CheckpointError, RefusedError, BaseModelError: if something can't be read.
        UsageError: as `bench`.
    """
    plain = replace(request or Request(), budget=None, max_error=None, ranks=None, allocate=None, options={})
    loaded = load_source(source, plain)
    targets = _targets(sizes or _usual(loaded, plain), loaded.bytes)
    chosen = tuple(methods) or fittable()
    points: list[Point] = []
    missed: list[Missed] = []
    for number, name in enumerate(chosen):
        found, failed = _method(loaded, replace(plain, to=name), targets, _part(progress, name, number, len(chosen)))
        points += found
        missed += failed
    extras, known = len(loaded.extras.payload), components(loaded.adapter, loaded.frames)
    errors, parts = [point.relative_error for point in points], known.unknown
    # No bound is known where outputs are known as well.
    told = loaded.frames is not None and loaded.frames.reference.source != "file"
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
        unit=_unit(targets),
    )


def _method(
    source: Original, request: Request, targets: Sequence[Budget], progress: Progress | None
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
            progress("", number, len(targets))
        asked = replace(job, request=replace(request, budget=target))
        limit, unit = int(target.amount), _unit([target])
        try:
            with without_warnings():
                made = run(asked, most=1)
        except RefusedError as error:
            return points, [*missed, Missed(request.to, None, str(error))]
        except CheckFailedError as error:
            missed.append(Missed(request.to, limit, str(error), unit))
            continue
        if made.error < _NOTHING:
            points.append(replace(_point(source, request, limit, made), unit=unit))
        else:
            missed.append(Missed(request.to, limit, f"what fits leaves a relative error of {made.error:.4g}", unit))
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


def _usual(source: Original, request: Request) -> list[Budget]:
    """The sizes of `SHARES`, as no method changes what extras take; where the least of them has no room for anything
    but a header, as many sizes down to one that has."""
    update = max(0, source.bytes - sum(tensor.nbytes for tensor in source.adapter.extras.values()))
    extras = len(source.extras.payload)
    sizes = [extras + share * update for share in SHARES]
    least = extras + _ROOM * (bare_size(prepare_job(source, replace(request, to=REFERENCE))) - extras)
    if sizes[-1] < least < source.bytes:
        sizes = [float(size) for size in np.geomspace(min(max(sizes[0], 8 * least), source.bytes), least, len(SHARES))]
    return [Budget(size, "bytes") for size in sizes]


def _targets(sizes: Sequence[AnyBudget], source_bytes: int) -> list[Budget]:
    """Sizes in bytes or parameters, the largest first.

    Raises:
        UsageError: if there are some of each.
    """
    found: dict[int, Budget] = {}
    for size in sizes:
        asked = Budget.of(size)
        if asked is not None:
            amount = asked.bytes_for(source_bytes)
            budget = asked if amount is None else Budget(amount, "bytes")
            found[int(budget.amount)] = budget
    if len({budget.unit for budget in found.values()}) > 1:
        raise UsageError(
            "some of the sizes count parameters and others bytes, which can't be compared", hint="bench them apart"
        )
    return [found[amount] for amount in sorted(found, reverse=True)]


def _unit(budgets: Sequence[Budget]) -> Counted:
    return "parameters" if any(budget.unit == "parameters" for budget in budgets) else "bytes"


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
    return lambda phase, done, total: progress(name, number + done / total, count)
