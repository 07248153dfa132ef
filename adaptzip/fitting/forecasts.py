"""What compressing would give, before anything is written: predictions, and the choice between methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from adaptzip.core import words
from adaptzip.core.basis import BasisReference
from adaptzip.core.progress import Progress
from adaptzip.core.showing import Shown
from adaptzip.core.survey import AnyCandidate
from adaptzip.errors import CheckFailedError, NoRoomError, RefusedError
from adaptzip.fitting.assembly import file_size, stored_options
from adaptzip.fitting.candidates import bare_size, candidates, with_ranks
from adaptzip.fitting.fits import NOTHING_CODED, FittedAdapter
from adaptzip.fitting.framing import fit_framed, foreseen_saving
from adaptzip.fitting.job_limits import control_of
from adaptzip.fitting.rate_control import DEFAULT_ERROR, Limits, RateControl
from adaptzip.fitting.requests import Job, Original, Request, prepare_job
from adaptzip.fitting.shrinkage import foreseen_error
from adaptzip.methods import REFERENCE, fittable, load_fittable

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
        frames: where the known directions come from that modules are coded in; None without.
        framed, modules: how many modules are, and how many there are.
        saved: bytes that these are expected to save; None without.
    """

    method: str
    options: Mapping[str, Any]
    bytes: int
    parameters: int
    relative_error: float
    ranks: Mapping[str, int]
    frames: BasisReference | None = None
    framed: int = 0
    modules: int = 0
    saved: int | None = None


@dataclass(frozen=True)
class Refusal:
    """A method that can't do what was asked for, and why.

    Attributes:
        least: bytes of the smallest file that it can make, where these are what is in the way.
    """

    method: str
    reason: str
    least: int | None = None


@dataclass(frozen=True, repr=False)
class PlanReport(Shown):
    """Methods and settings for one adapter and budget.

    Attributes:
        forecasts: best first: by error, or by size where an error is to be met.
        refusals: methods that can't.
        source_bytes: size of the source's tensor file.
        weighted: whether errors are those that calibration weighs.
    """

    forecasts: tuple[Forecast, ...]
    refusals: tuple[Refusal, ...]
    source_bytes: int
    weighted: bool = False

    def _told(self) -> Iterator[str]:
        yield words.count(len(self.forecasts), "forecast")
        if self.forecasts:
            best = self.forecasts[0]
            yield f"best {best.method}, about {words.size(best.bytes)}, error {words.number(best.relative_error)}"
        yield f"{len(self.refusals)} can't" if self.refusals else ""

    def _rows(self) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
        rows = (
            (
                f.method,
                words.size(f.bytes),
                words.ratio(self.source_bytes, f.bytes),
                f"{f.parameters:,}",
                words.number(f.relative_error),
            )
            for f in self.forecasts
        )
        return ("method", "size", "ratio", "parameters", "error"), rows

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
        return f"allow at least {min(sizes)}B" if sizes else "allow more, or see `adaptzip methods`"


def compare(
    source: Original, request: Request, methods: Sequence[str] | None, progress: Progress | None = None
) -> PlanReport:
    """Forecasts for a source that was read; at the default error where nothing else is asked for.

    Args:
        methods: None compares all that need no training; those whose fits keep little are among the refusals.
    """
    request = with_aim(request)
    forecasts: list[Forecast] = []
    refusals: list[Refusal] = []
    for name in fittable() if methods is None else methods:
        if methods is None and load_fittable(name).fits_little:
            refusals.append(Refusal(name, f"its fit keeps little before it is trained: `adaptzip distill --to {name}`"))
            continue
        try:
            job = with_ranks(prepare_job(source, replace(request, to=name)))
            forecasts += _forecasts(job, progress)
        except (RefusedError, CheckFailedError) as error:
            refusals.append(Refusal(name, str(error), error.least if isinstance(error, NoRoomError) else None))
    by_size = request.max_error is not None
    forecasts.sort(key=lambda f: (f.bytes, f.relative_error) if by_size else (f.relative_error, f.bytes))
    return PlanReport(tuple(forecasts), tuple(refusals), source.bytes, bool(source.sensitivities))


def with_aim(request: Request) -> Request:
    """The request, with the default error where it has neither a budget nor an error: files of one error compare."""
    open_ended = request.budget is None and request.max_error is None
    return replace(request, max_error=DEFAULT_ERROR) if open_ended else request


def _forecasts(job: Job, progress: Progress | None) -> list[Forecast]:
    """Forecasts of a method's best settings: its own where it has them, else from a fit."""
    found = []
    limit = job.request.budget
    most = None if limit is None else limit.bytes_for(job.source.bytes)
    for candidate in candidates(job)[:_SHOWN]:
        known = _known(job, candidate)
        if known is not None and most is not None and known.bytes > most:
            known = None
        found.append(foresee_candidate(job, candidate, progress) if known is None else known)
    if not found:
        raise CheckFailedError("it has no setting for this adapter and budget")
    return found


def _known(job: Job, candidate: AnyCandidate) -> Forecast | None:
    if candidate.bytes is None or candidate.parameters is None or candidate.error is None:
        return None
    size = candidate.bytes + bare_size(job)
    error = foreseen_error(job, candidate.error)
    return Forecast(job.method.name, stored_options(candidate.config), size, candidate.parameters, error, {})


def foresee_candidate(job: Job, candidate: AnyCandidate, progress: Progress | None = None) -> Forecast:
    """What one setting of a method is expected to give, from a fit.

    Raises:
        RefusedError, CheckFailedError: if the method can't represent the adapter, or the limits can't be met.
    """
    return _foreseen(job, fit_framed(job, candidate, progress)[0])


def foresee_errors(source: Original, request: Request, errors: Sequence[float], progress: Progress) -> list[Forecast]:
    """What the reference method is expected to give at each of some errors, from one fit, which no limit changes."""
    job = prepare_job(source, replace(request, to=REFERENCE, max_error=errors[0]))
    fitted = fit_framed(job, candidates(job)[0], progress)[0]
    if not fitted.profiles:
        return [_foreseen(job, fitted)] * len(errors)
    control, limits = control_of(job, fitted)
    found = []
    for number, error in enumerate(errors):
        found.append(_within(job, control, replace(limits, error=error)))
        progress("estimating", number + 1, len(errors))
    return found


def _foreseen(job: Job, fitted: FittedAdapter) -> Forecast:
    """What a fit is expected to give under the limits of a job."""
    if not fitted.profiles:
        size = file_size(job, fitted, 0.0, NOTHING_CODED, 0.0)
        return Forecast(job.method.name, stored_options(fitted.config), size, 0, 0.0, {})
    return _within(job, *control_of(job, fitted))


def _within(job: Job, control: RateControl, limits: Limits) -> Forecast:
    """What a job is expected to give within limits."""
    fitted = control.steps.fitted
    step, ranks = control.foresee(limits)
    size, error = fitted.predict(step, ranks)
    saved, basis = foreseen_saving(fitted, step, ranks), fitted.coder.basis
    foreseen = control.steps.foreseen_size(size, ranks)
    return Forecast(
        method=job.method.name,
        options=stored_options(fitted.config),
        bytes=foreseen if limits.size is None or limits.error is not None else min(foreseen, limits.size),
        parameters=fitted.shared_numbers + sum(fitted.numbers(name, rank) for name, rank in ranks.items()),
        relative_error=foreseen_error(job, sqrt(error / fitted.energy)),
        ranks=ranks,
        frames=None if saved is None or basis is None else basis.reference,
        framed=sum(site.frame > 0 for site in fitted.sites.values()),
        modules=len(fitted.sites),
        saved=saved,
    )
