"""What compressing would give, before anything is written: predictions, and the choice between methods."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.core.survey import Candidate
from adaptzip.errors import AdaptzipWarning, CheckFailedError, NoRoomError, RefusedError
from adaptzip.fitting.assembly import file_size, settled
from adaptzip.fitting.candidates import bare_size, candidates, with_ranks
from adaptzip.fitting.compression import Made, Tried, fit_candidate, run
from adaptzip.fitting.fits import NOTHING_CODED, Progress
from adaptzip.fitting.job_limits import control_of
from adaptzip.fitting.measuring import measured_error
from adaptzip.fitting.rate_control import DEFAULT_ERROR
from adaptzip.fitting.requests import AUTO, Job, Request, Source, load_source, prepare_job
from adaptzip.methods import REFERENCE, fittable

_HOPELESS = 1.5
"""A method whose predicted error is this many times the best measured one is not fitted."""
_SHOWN = 4
"""Settings of one method that a table shows."""


@dataclass(frozen=True)
class Forecast:
    """What one setting of a method is expected to give.

    Attributes:
        method: its name.
        options: the method's options, settled, without those that have their default.
        bytes: of the whole file.
        parameters: stored numbers, extras not counted.
        relative_error: |dW - dW'| / |dW|, weighted where there is calibration.
        ranks: rank of each module that is kept; {} where the setting was not fitted to tell.
    """

    method: str
    options: Mapping[str, Any]
    bytes: int
    parameters: int
    relative_error: float
    ranks: Mapping[str, int]


@dataclass(frozen=True)
class Refusal:
    """A method that can't do what was asked for, and why.

    Attributes:
        least: bytes of the smallest file that it can make, where these are what is in the way.
    """

    method: str
    reason: str
    least: int | None = None


@dataclass(frozen=True)
class PlanReport:
    """Methods and settings for one adapter and budget.

    Attributes:
        forecasts: best first: by error, or by size where an error is to be met.
        refusals: methods that can't.
        source_bytes: size of the source's tensor file.
    """

    forecasts: tuple[Forecast, ...]
    refusals: tuple[Refusal, ...]
    source_bytes: int

    @property
    def best(self) -> Forecast:
        """The first forecast.

        Raises:
            CheckFailedError: if there is none.
        """
        if not self.forecasts:
            reasons = "; ".join(f"{r.method}: {r.reason}" for r in self.refusals)
            raise CheckFailedError(f"no method can do it: {reasons}", hint=self.hint)
        return self.forecasts[0]

    @property
    def hint(self) -> str:
        """What to do where no method can."""
        sizes = [refusal.least for refusal in self.refusals if refusal.least is not None]
        return f"allow at least {min(sizes)} bytes" if sizes else "allow more, or see `adaptzip methods`"


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
        request: `budget`, `max_error`, `extras`, `base`, `basis` and so on, as for `compress`.

    Raises:
        CheckpointError, RefusedError, UsageError: as `compress`.
    """
    asked = Request(to=AUTO, **request)
    return compare(load_source(source, asked), asked, fittable() if methods is None else methods, progress)


def compare(source: Source, request: Request, methods: Sequence[str], progress: Progress | None = None) -> PlanReport:
    """Forecasts of some methods for a source that was read; at the default error where nothing else is asked for."""
    request = _with_aim(request)
    forecasts: list[Forecast] = []
    refusals: list[Refusal] = []
    for name in methods:
        try:
            job = with_ranks(prepare_job(source, replace(request, to=name)))
            forecasts += _forecasts(job, progress)
        except (RefusedError, CheckFailedError) as error:
            refusals.append(Refusal(name, str(error), error.least if isinstance(error, NoRoomError) else None))
    by_size = request.max_error is not None
    forecasts.sort(key=lambda f: (f.bytes, f.relative_error) if by_size else (f.relative_error, f.bytes))
    return PlanReport(tuple(forecasts), tuple(refusals), source.bytes)


def forecast(source: str | Path | Adapter | Source, request: Request, progress: Progress | None = None) -> Forecast:
    """What `compress` with the same request would give, from the method's own model; nothing is coded.

    Raises:
        CheckpointError, RefusedError, UsageError, CheckFailedError: as `compress`.
    """
    loaded = source if isinstance(source, Source) else load_source(source, request)
    if request.to == AUTO:
        return compare(loaded, request, fittable(), progress).best
    job = with_ranks(prepare_job(loaded, request))
    return _foresee(job, candidates(job)[0], progress)


def choose(source: Source, request: Request, progress: Progress | None = None) -> Made:
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


def reference_at(source: Source, size: int, request: Request) -> Made | None:
    """The reference method at `size` bytes of the same adapter; None where it can't be made so small."""
    plain = replace(
        request, to=REFERENCE, budget=Budget(size, "bytes"), max_error=None, allocate=None, ranks=None, options={}
    )
    with _without_warnings():
        try:
            return run(prepare_job(source, plain))
        except CheckFailedError:
            return None


def _with_aim(request: Request) -> Request:
    """The request, with the default error where it has neither a budget nor an error: files of one error compare."""
    open_ended = request.budget is None and request.max_error is None
    return replace(request, max_error=DEFAULT_ERROR) if open_ended else request


@contextmanager
def _without_warnings() -> Iterator[None]:
    """What falls short of a budget is in the table anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptzipWarning)
        yield


def _forecasts(job: Job, progress: Progress | None) -> list[Forecast]:
    """Forecasts of a method's best settings: its own where it has them, else from a fit."""
    found = []
    limit = job.request.limit
    most = None if limit is None else limit.bytes_for(job.source.bytes)
    for candidate in candidates(job)[:_SHOWN]:
        known = _known(job, candidate)
        if known is not None and most is not None and known.bytes > most:
            known = None
        found.append(_foresee(job, candidate, progress) if known is None else known)
    if not found:
        raise CheckFailedError("it has no setting for this adapter and budget")
    return found


def _known(job: Job, candidate: Candidate) -> Forecast | None:
    if candidate.bytes is None or candidate.parameters is None or candidate.error is None:
        return None
    size = candidate.bytes + bare_size(job)
    return Forecast(job.method.name, settled(candidate.config), size, candidate.parameters, candidate.error, {})


def _foresee(job: Job, candidate: Candidate, progress: Progress | None) -> Forecast:
    fitted = fit_candidate(job, candidate, progress)
    options = settled(fitted.config)
    if not fitted.profiles:
        return Forecast(job.method.name, options, file_size(job, fitted, 0.0, NOTHING_CODED, 0.0), 0, 0.0, {})
    control, limits = control_of(job, fitted)
    step, ranks = control.foresee(limits)
    size, error = fitted.predict(step, ranks)
    foreseen = control.steps.foreseen_size(size, ranks)
    return Forecast(
        method=job.method.name,
        options=options,
        bytes=foreseen if limits.size is None or limits.error is not None else min(foreseen, limits.size),
        parameters=fitted.shared_numbers + sum(fitted.numbers(name, rank) for name, rank in ranks.items()),
        relative_error=sqrt(error / fitted.energy),
        ranks=ranks,
    )


def _hopeless(forecast: Forecast, best: Made, extras: int | None) -> bool:
    """By size, that of the extras not counted, which no method changes; by error where `extras` is None."""
    if extras is not None:
        return forecast.bytes - extras > _HOPELESS * (best.size - extras)
    return forecast.relative_error > _HOPELESS * best.error
