"""Rate control of a job: the limits that it asks for, and the ranks that it allows."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from adaptzip.allocation import Ranks, paths, pick_best, pick_by_numbers
from adaptzip.assembly import file_size
from adaptzip.errors import CheckFailedError
from adaptzip.fitting import NOTHING_CODED, CodedAdapter, FittedAdapter, Progress
from adaptzip.jobs import Job
from adaptzip.limits import Limits, RateControl, capped_error, cut_share, parameter_caps


def control_of(job: Job, fitted: FittedAdapter, progress: Progress | None = None) -> tuple[RateControl, Limits]:
    """Rate control over a fitted adapter, and the limits that it has to meet.

    Raises:
        CheckFailedError: if no module can be kept.
    """
    limit = job.request.limit
    caps = _caps(job, fitted)
    if limit is not None and limit.unit == "parameters":
        if fitted.method.fixed_ranks:
            _check_parameters(fitted, int(limit.amount))
        elif not job.request.allocate:
            caps = parameter_caps(fitted, int(limit.amount), caps)
    return _control(job, fitted, caps, progress)


def _control(
    job: Job, fitted: FittedAdapter, caps: Mapping[str, int] | None, progress: Progress | None = None
) -> tuple[RateControl, Limits]:
    limit, max_error = job.request.limit, job.request.max_error
    size = None if limit is None else limit.bytes_for(job.source.bytes)
    cut = cut_share(fitted, caps)
    if max_error is None and size is None:
        max_error = capped_error(cut)

    def total_size(step: float, coded: CodedAdapter, error: float) -> int:
        return file_size(job, fitted, step, coded, error)

    fixed = file_size(job, fitted, 0.12345678, NOTHING_CODED, 0.123456)
    extras = len(job.source.extras.payload)
    return RateControl(fitted, total_size, fixed, extras, caps, cut, progress), Limits(size, max_error)


def _caps(job: Job, fitted: FittedAdapter) -> Ranks | None:
    """The largest rank of each module where the request or an allocation sets one."""
    request, limit = job.request, job.request.limit
    if fitted.method.fixed_ranks:
        return None
    if request.ranks is not None:
        return {name: request.ranks.get(name, 0) for name in fitted.profiles}
    if request.allocate is None:
        return None
    path = paths(request.allocate, _units(fitted), job.source.importance)
    if limit is not None and limit.unit == "parameters":
        return pick_by_numbers(path, lambda ranks: _numbers(fitted, ranks), int(limit.amount))

    def cost(ranks: Ranks) -> float:
        control, limits = _control(job, fitted, ranks)
        step, kept = control.foresee(limits)
        size, error = fitted.predict(step, kept)
        return size if limit is None else error

    return pick_best(path, cost)


def _units(fitted: FittedAdapter) -> dict[str, list[float]]:
    """Energy of each unit of rank of each module."""
    units = {}
    for name, profile in fitted.profiles.items():
        sizes = [fitted.numbers(name, rank) for rank in range(len(profile.scores) + 1)]
        units[name] = [score * (b - a) for score, a, b in zip(profile.scores, sizes, sizes[1:], strict=False)]
    return units


def _numbers(fitted: FittedAdapter, ranks: Mapping[str, int]) -> int:
    return fitted.shared_numbers + sum(fitted.numbers(name, rank) for name, rank in ranks.items())


def _check_parameters(fitted: FittedAdapter, parameters: int) -> None:
    ranks = fitted.ranks(sqrt(fitted.energy) * 1e-9)
    numbers = _numbers(fitted, ranks)
    if numbers > parameters:
        raise CheckFailedError(
            f"these settings store {numbers} numbers, more than the {parameters} allowed",
            hint="leave more of the settings open, or allow more parameters",
        )
