"""A method on an adapter: its best settings fitted, coded at the rate that is asked for, and the best of them kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any

from adaptzip.adz.container import writer
from adaptzip.core.comparing import diff
from adaptzip.core.compressed import Compressed
from adaptzip.core.progress import Progress
from adaptzip.core.survey import AnyCandidate
from adaptzip.core.workers import on_one_core
from adaptzip.errors import CheckFailedError, NoRoomError, OutOfReachError, warn
from adaptzip.fitting.assembly import assemble, fixed_size
from adaptzip.fitting.candidates import candidates, smallest, with_ranks
from adaptzip.fitting.fit_adapter import KEPT_NUMBERS
from adaptzip.fitting.fits import NOTHING_CODED, FittedAdapter
from adaptzip.fitting.framing import fit_framed, foreseen_saving
from adaptzip.fitting.job_limits import control_of
from adaptzip.fitting.requests import Job
from adaptzip.fitting.shrinkage import unshrunk
from adaptzip.fitting.steps import FINEST_ERROR, GRAIN, Outcome
from adaptzip.restoring.reconstruction import reconstruct

_LEFT = 0.01
"""More of a budget's room than this share, left unused, is worth a word."""
_FITTED = 3
"""Candidates of a method that are fitted and measured; of adapters too large to keep their fits, the best alone."""
_AIMS = (1.0, 0.7, 0.45)
"""Shares of the error allowed that settings are proposed for, one after another until one meets it."""


@dataclass(frozen=True)
class Tried:
    """A method that `auto` considered.

    Attributes:
        bytes, parameters, error, options: what it gave and with which options, where it was fitted.
        reason: why it was not, or why it could not.
    """

    method: str
    bytes: int | None = None
    parameters: int | None = None
    error: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Made:
    """What came of a job.

    Attributes:
        compressed: the result.
        error: its relative error as it was minimised: weighted where there is calibration.
        size: bytes of the whole file.
        ranks: rank of each module that was kept.
        distortion: the error but for what the settings leave out at every step.
        tried: every method that was considered, where the choice was left open.
        saved: bytes that known directions are expected to save, in a lossless file exactly; None where none are used.
    """

    compressed: Compressed
    error: float
    size: int
    ranks: Mapping[str, int]
    distortion: float = 0.0
    tried: tuple[Tried, ...] = ()
    saved: int | None = None


def run(job: Job, progress: Progress | None = None, *, most: int = _FITTED, nearest: bool = False) -> Made:
    """Fit the best candidates of a method, and keep the one that meets the limits best.

    Args:
        most: candidates that are fitted; of adapters too large to keep their fits, one.
        nearest: leave what a budget makes as near as it is in the square (`adaptzip.fitting.shrinkage`).

    Raises:
        RefusedError: if the method can't represent the adapter.
        CheckFailedError: if the limits can't be met.
    """
    job = with_ranks(job)
    best: Made | None = None
    failures: list[CheckFailedError] = []
    count = most if job.adapter.parameters <= KEPT_NUMBERS else 1
    tried: list[AnyCandidate] = []
    for propose in _proposals(job):
        try:
            found = [candidate for candidate in propose()[:count] if not _among(tried, candidate)]
        except CheckFailedError as error:
            failures.append(error.with_traceback(None))
            continue
        tried += found
        best = (_run_foretold if _foretold(job) and len(found) > 1 else _run_each)(job, found, failures, progress)
        if best is not None:
            break
    if best is None:
        raise why_not(failures)
    best = best if nearest else _unshrunk(job, best)
    _warn_of_room(job, best)
    return best


def _unshrunk(job: Job, made: Made) -> Made:
    compressed, error = unshrunk(job, made.compressed, made.error)
    if compressed is made.compressed:
        return made
    return replace(made, compressed=compressed, error=error, size=writer.size(compressed))


def _proposals(job: Job) -> list[Callable[[], list[AnyCandidate]]]:
    """Settings to try, one list after another until one of them meets the limits."""
    if job.request.max_error is None:
        return [lambda: candidates(job), lambda: smallest(job)]
    # A method that predicts too well is asked for smaller errors than it has to reach.
    aims = _AIMS if job.fixed_ranks else _AIMS[:1]
    return [partial(candidates, job, aim) for aim in aims]


def _among(tried: Sequence[AnyCandidate], candidate: AnyCandidate) -> bool:
    return any(candidate.config == other.config for other in tried)


def why_not(failures: list[CheckFailedError]) -> CheckFailedError:
    """Of all that stood in the way the first, or the one that asks for the least room or leaves the least error.

    Nothing is left in the list: what is raised leads to its caller's frame, and through that to itself and every tensor
    there, which stay until Python looks for such circles.
    """
    found = list(failures)
    failures.clear()
    if not found:
        return CheckFailedError("the method has no setting for this adapter", hint="choose another with `to=`")
    first = min(found, key=lambda e: e.least if isinstance(e, NoRoomError) and e.least is not None else inf)
    if not isinstance(first, OutOfReachError):
        return first
    beyond = [failure for failure in found if isinstance(failure, OutOfReachError)]
    least = min(failure.least for failure in beyond)
    return OutOfReachError(first.asked, least, hint=first.hint, settings=len(beyond))


def _run_each(
    job: Job, found: Sequence[AnyCandidate], failures: list[CheckFailedError], progress: Progress | None
) -> Made | None:
    """The best of some settings, each fitted and coded; what stands in the way of one is added to `failures`."""
    best: Made | None = None
    for candidate in found:
        try:
            made = _run(job, candidate, progress)
        except CheckFailedError as error:
            failures.append(error.with_traceback(None))
            continue
        if best is None or _order(job, made) < _order(job, best):
            best = made
    return best


def _foretold(job: Job) -> bool:
    """Whether what a fit leaves out says how it will be coded: so it is where numbers alone are limited.

    The rest is then coded at an error that follows from that (`control_of`). Methods with ranks that a step sets have
    one setting for a number of parameters.
    """
    limit = job.request.budget
    return job.fixed_ranks and job.request.max_error is None and limit is not None and limit.unit == "parameters"


@on_one_core()
def _run_foretold(
    job: Job, found: Sequence[AnyCandidate], failures: list[CheckFailedError], progress: Progress | None
) -> Made | None:
    """As `_run_each`, but only the fit that leaves out least is coded."""
    fits: list[tuple[float, int, FittedAdapter]] = []
    for candidate in found:
        try:
            for fitted in fit_framed(job, candidate, progress):
                fits.append((control_of(job, fitted)[0].steps.cut, len(fits), fitted))
        except CheckFailedError as error:
            failures.append(error.with_traceback(None))
    for _, _, fitted in sorted(fits, key=lambda fit: fit[:2]):
        try:
            return _coded(job, fitted, progress)
        except CheckFailedError as error:
            failures.append(error.with_traceback(None))
    return None


@on_one_core()
def _run(job: Job, candidate: AnyCandidate, progress: Progress | None) -> Made:
    """One setting, in the frames that pay; where it is not clear whether they do, with and without them."""
    made: Made | None = None
    failures: list[CheckFailedError] = []
    for fitted in fit_framed(job, candidate, progress):
        try:
            found = _coded(job, fitted, progress)
        except CheckFailedError as error:
            failures.append(error.with_traceback(None))
            continue
        made = found if made is None else min(made, found, key=partial(_order, job))
    if made is None:
        raise why_not(failures)
    return made


def _coded(job: Job, fitted: FittedAdapter, progress: Progress | None) -> Made:
    if not fitted.profiles:
        compressed = assemble(job, fitted, 0.0, NOTHING_CODED, 0.0)
        return Made(compressed, 0.0, writer.size(compressed), {})
    control, limits = control_of(job, fitted, progress)
    outcome = control.meet(limits)
    compressed = assemble(job, fitted, outcome.step, outcome.coded, outcome.error)
    if job.source.sensitivities:
        compressed = _with_plain_error(job, compressed)
    saved = foreseen_saving(fitted, outcome.step, outcome.ranks)
    return Made(compressed, outcome.error, writer.size(compressed), _kept(outcome), outcome.distortion, saved=saved)


def _kept(outcome: Outcome) -> dict[str, int]:
    return {name: rank for name, rank in outcome.ranks.items() if name in outcome.coded.modules}


def _with_plain_error(job: Job, compressed: Compressed) -> Compressed:
    """State the plain error, whatever was minimised."""
    after = reconstruct(compressed, base=job.request.base, basis=job.request.coded_in(compressed.method))
    error = diff(job.adapter, after).relative_error or 0.0
    return replace(compressed, provenance=replace(compressed.provenance, relative_error=float(f"{error:.6g}")))


def _order(job: Job, made: Made) -> tuple[float, float]:
    """What is better comes first: the smaller file where an error is to be met, else the smaller error."""
    by_size = job.request.max_error is not None
    return (made.size, made.error) if by_size else (made.error, made.size)


def _warn_of_room(job: Job, made: Made) -> None:
    limit = job.request.budget
    size = None if limit is None else limit.bytes_for(job.source.bytes)
    if size is None or job.request.max_error is not None or not made.ranks:
        return
    fixed = fixed_size(made.compressed)
    room = size - fixed
    if size - made.size <= max(_LEFT * room, GRAIN):
        return
    reason = "the next component does not fit" if made.distortion > 2 * FINEST_ERROR else "more would buy nothing"
    kind = "weighted" if job.source.sensitivities else "relative"
    warn(
        f"the file takes {made.size} bytes, the update {(made.size - fixed) / room:.0%} of its part of the budget "
        f"({room} bytes), at {kind} error {made.error:.2g}: {reason}"
    )
