"""Rate control of a job: the limits that it asks for, and the ranks that it allows."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from math import sqrt

from adaptzip.core.progress import Progress
from adaptzip.errors import CheckFailedError
from adaptzip.fitting.allocation import Ranks, paths, pick_best, pick_by_numbers
from adaptzip.fitting.assembly import LONGEST_ERROR, file_size
from adaptzip.fitting.fits import NOTHING_CODED, CodedAdapter, FittedAdapter
from adaptzip.fitting.rate_control import DEFAULT_ERROR, Limits, RateControl
from adaptzip.fitting.requests import Job
from adaptzip.fitting.shrinkage import undoes
from adaptzip.fitting.steps import StepSearch

_NO_STEP = 1e-9
"""A step this small, as a share of |dW|, leaves no error of its own."""


def control_of(job: Job, fitted: FittedAdapter, progress: Progress | None = None) -> tuple[RateControl, Limits]:
    """Rate control over a fitted adapter, and the limits that it has to meet.

    Raises:
        CheckFailedError: if no module can be kept.
    """
    limit = job.request.budget
    caps = _caps(job, fitted)
    if limit is not None and limit.unit == "parameters":
        if fitted.fixed_ranks:
            _check_parameters(fitted, int(limit.amount))
        elif not job.request.allocate:
            caps = _parameter_caps(fitted, int(limit.amount), caps)
    return _control(job, fitted, caps, progress)


def _control(
    job: Job, fitted: FittedAdapter, caps: Mapping[str, int] | None, progress: Progress | None = None
) -> tuple[RateControl, Limits]:
    limit, max_error = job.request.budget, job.request.max_error
    size = None if limit is None else limit.bytes_for(job.source.bytes)
    cut = _cut_share(fitted, caps)

    def total_size(step: float, coded: CodedAdapter, error: float) -> int:
        # Where errors are weighted or an update is made larger, the one that the file states is measured later.
        later = job.source.sensitivities or undoes(job)
        stated = LONGEST_ERROR if later else error
        return file_size(job, fitted, step, coded, stated)

    # With numbers of the fewest digits: no file takes less.
    fixed = file_size(job, fitted, 0.0, NOTHING_CODED, 0.0)
    steps = StepSearch(fitted, total_size, fixed, caps, cut, progress, job.request.effort)
    return RateControl(steps, packable_extras(job)), Limits(size, max_error, _capped_error(cut))


def packable_extras(job: Job) -> int:
    """Bytes of extras that could be packed smaller."""
    return len(job.source.extras.payload) if job.request.extras != "int8" else 0


def _caps(job: Job, fitted: FittedAdapter) -> Ranks | None:
    """The largest rank of each module where the request or an allocation sets one."""
    request, limit = job.request, job.request.budget
    if fitted.fixed_ranks:
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


def _parameter_caps(fitted: FittedAdapter, parameters: int, most: Mapping[str, int] | None = None) -> dict[str, int]:
    """The largest rank of each module so that at most `parameters` numbers are stored, best components first.

    Args:
        most: a bound of each module's rank, or None.

    Raises:
        CheckFailedError: if that leaves nothing.
    """
    queue = [
        (-profile.scores[0], name) for name, profile in fitted.profiles.items() if most is None or most.get(name, 0) > 0
    ]
    if not queue:
        raise CheckFailedError("these ranks leave out every module", hint="give one of them a rank of at least 1")
    heapq.heapify(queue)
    least = min(fitted.numbers(name, 1) for _, name in queue)
    if fitted.shared_numbers >= parameters:
        raise CheckFailedError(
            f"{parameters} parameters leave no room for any module: what all share takes {fitted.shared_numbers}",
            hint=f"allow at least {fitted.shared_numbers + least} parameters",
        )
    caps = dict.fromkeys(fitted.profiles, 0)
    left = parameters - fitted.shared_numbers
    if left < least:
        raise CheckFailedError(
            f"{parameters} parameters leave no room for any module: the smallest takes {least}",
            hint=f"allow at least {fitted.shared_numbers + least} parameters",
        )
    while queue:
        _, name = heapq.heappop(queue)
        cost = fitted.numbers(name, caps[name] + 1) - fitted.numbers(name, caps[name])
        if cost > left:
            continue
        left -= cost
        caps[name] += 1
        scores = fitted.profiles[name].scores
        if caps[name] < min(len(scores), len(scores) if most is None else most.get(name, 0)):
            heapq.heappush(queue, (-scores[caps[name]], name))
    return caps


def _cut_share(fitted: FittedAdapter, caps: Mapping[str, int] | None) -> float:
    """Share of |dW|^2 that the fit and caps leave out, however small the step."""
    step = sqrt(fitted.energy) * _NO_STEP
    _, cut, _ = fitted.foresee(step, caps)
    return cut / fitted.energy


def _capped_error(cut: float) -> float:
    """The relative error to aim at under caps: what is cut away, and the rest coded at `DEFAULT_ERROR`."""
    return sqrt(cut + DEFAULT_ERROR**2 * (1 - cut))
