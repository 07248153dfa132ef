"""Choosing between methods: by their forecasts, and by what comes of those that are worth fitting."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.core.progress import Progress
from adaptzip.errors import AdaptzipWarning, CheckFailedError, RefusedError
from adaptzip.fitting.candidates import candidates, with_ranks
from adaptzip.fitting.forecasts import Forecast, PlanReport, _foresee, _with_aim, compare
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.measuring import measured_error
from adaptzip.fitting.requests import AUTO, Original, Request, prepare_job
from adaptzip.fitting.running import Made, Tried, run
from adaptzip.methods import REFERENCE, fittable

_HOPELESS = 1.5
"""A method whose predicted error is this many times the best measured one is not fitted."""


def plan(
    source: str | Path | Adapter,
    *,
    methods: Sequence[str] | None = None,
    progress: Progress | None = None,
    **request: Any,
) -> PlanReport:
    """What `compress` would give with each method, predicted; nothing is written.

    Args:
        source: as for `compress`.
        methods: names of the methods to compare; all that need no training where it is None.
        progress: called with a phase and the share of it that is done.
        request: `budget`, `max_error`, `extras`, `base`, `basis` and so on, as for `compress`.

    Raises:
        CheckpointError, RefusedError, UsageError: as `compress`.

    Example:
        >>> report = adaptzip.plan("my-adapter", methods=["svd", "loretta"], budget="20%")
        >>> sorted(forecast.method for forecast in report.forecasts)
        ['loretta', 'svd']
        >>> report.best.bytes <= report.source_bytes / 5
        True
    """
    asked = Request(to=AUTO, **request)
    return compare(load_source(source, asked), asked, fittable() if methods is None else methods, progress)


def forecast(source: str | Path | Adapter | Original, request: Request, progress: Progress | None = None) -> Forecast:
    """What `compress` with the same request would give, from the method's own model; nothing is coded.

    Raises:
        CheckpointError, RefusedError, UsageError, CheckFailedError: as `compress`.
    """
    loaded = source if isinstance(source, Original) else load_source(source, request)
    if request.to == AUTO:
        return compare(loaded, request, fittable(), progress).best
    job = with_ranks(prepare_job(loaded, request))
    return _foresee(job, candidates(job)[0], progress)


def choose_method(source: Original, request: Request, progress: Progress | None = None) -> Made:
    """Whichever method gives the smallest error, or for an error the smallest file, at its true size.

    Methods are fitted in the order of their forecasts; one whose forecast is hopeless beside what was measured is not.

    Raises:
        CheckFailedError: if none meets the limits.
    """
    request = _with_aim(request)
    report = compare(source, request, fittable(), progress)
    tried: list[Tried] = [Tried(refusal.method, reason=refusal.reason) for refusal in report.refusals]
    best: Made | None = None
    by_size = request.max_error is not None
    for name in dict.fromkeys(f.method for f in report.forecasts):
        first = next(f for f in report.forecasts if f.method == name)
        if best is not None and _hopeless(first, best, len(source.extras.payload) if by_size else None):
            tried.append(Tried(name, reason=f"expected {first.bytes} bytes at error {first.relative_error:.3g}"))
            continue
        try:
            with _without_warnings():
                made = run(prepare_job(source, replace(request, to=name)), progress)
        except (CheckFailedError, RefusedError) as error:
            tried.append(Tried(name, reason=str(error)))
            continue
        made = replace(made, error=measured_error(source, made.compressed, request))
        numbers = made.compressed.provenance.parameters
        tried.append(Tried(name, made.size, numbers, made.error, made.compressed.config))
        if best is None or (made.size < best.size if by_size else made.error < best.error):
            best = made
    if best is None:
        reasons = "; ".join(f"{t.method}: {t.reason}" for t in tried)
        raise CheckFailedError(f"no method can do it: {reasons}", hint=report.hint)
    return replace(best, tried=tuple(tried))


def reference_at(source: Original, size: int, request: Request) -> Made | None:
    """The reference method at `size` bytes of the same adapter; None where it can't be made so small."""
    plain = replace(
        request, to=REFERENCE, budget=Budget(size, "bytes"), max_error=None, allocate=None, ranks=None, options={}
    )
    with _without_warnings():
        try:
            return run(prepare_job(source, plain))
        except CheckFailedError:
            return None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """What falls short of a budget is in the table anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptzipWarning)
        yield


def _hopeless(forecast: Forecast, best: Made, extras: int | None) -> bool:
    """By size, that of the extras not counted, which no method changes; by error where `extras` is None."""
    if extras is not None:
        return forecast.bytes - extras > _HOPELESS * (best.size - extras)
    return forecast.relative_error > _HOPELESS * best.error
