"""From an adapter to a compressed one, and to a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.adz.container import writer
from adaptzip.checkpoints._base_name import warn_of_local_name
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.budget import Budget
from adaptzip.core.comparing import diff
from adaptzip.core.compressed import Compressed
from adaptzip.core.method import FunctionMethod
from adaptzip.core.survey import Candidate
from adaptzip.core.workers import on_one_core
from adaptzip.errors import AdaptzipWarning, CheckFailedError, NoRoomError, UsageError
from adaptzip.files.atomic import check_output
from adaptzip.files.inputs import check_apart
from adaptzip.fitting.assembly import assemble, exact, fixed_size
from adaptzip.fitting.candidates import candidates, smallest, with_ranks
from adaptzip.fitting.fits import KEPT_NUMBERS, NOTHING_CODED, FittedAdapter, Progress, fit_adapter
from adaptzip.fitting.job_limits import control_of
from adaptzip.fitting.requests import AUTO, Job, Request, Source, load_source, prepare_job
from adaptzip.fitting.steps import FINEST_ERROR, GRAIN, Outcome
from adaptzip.methods import REFERENCE, load
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
    """

    compressed: Compressed
    error: float
    size: int
    ranks: Mapping[str, int]
    distortion: float = 0.0
    tried: tuple[Tried, ...] = ()


def compress(
    source: str | Path | Adapter,
    output: str | Path | None = None,
    *,
    to: str = REFERENCE,
    budget: str | Budget | None = None,
    max_error: float | None = None,
    lossless: bool = False,
    extras: ExtrasMode = "lossless",
    alpha: float | None = None,
    config: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    embed_basis: bool = False,
    calibration: str | Path | None = None,
    allocate: str | None = None,
    ranks: Mapping[str, int] | None = None,
    base_name: str | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Compressed:
    """Compress an adapter, and write it to `output` if that is given.

    Args:
        source: a checkpoint's path, or an adapter that was read already.
        to: name of the method; "auto" keeps the one with the smallest error.
        budget: an upper limit in parameters, bytes or as a share of the source (`Budget`). A size in bytes is met
            from below, within 1 % of what it leaves for the update besides header, tables and extras.
        max_error: largest relative error |dW - dW'| / |dW| over all modules together, weighted where there is
            calibration; met from below with the smallest file. 0.1, or what the method can reach, where neither this
            nor a budget is given.
        lossless: keep every tensor bit for bit instead.
        extras: how tensors that are no factors are kept: "lossless", "float16", "bfloat16" or "int8".
        alpha, config: as for `read`.
        device: "auto", "cpu", "cuda" or "cuda:N", for the fit.
        seed: of every random choice.
        base: folder of the base model, for methods whose basis is that of its weights, and for calibration.
        basis: a basis, or the path of a basis artefact, for methods that need one.
        embed_basis: store the basis in the file, which then needs neither base nor artefact.
        calibration: a file of texts; errors are then weighted by what the base feeds each module.
        allocate: "uniform", "energy" or "increlora": how ranks are shared out over modules.
        ranks: the largest rank of each module; modules that it does not name are left out.
        base_name: what the file calls the base model; None keeps the adapter's own name for it. With `lossless`
            everything else is still kept bit for bit.
        text_field, pair_field, completion_field: where its rows have the text, the second of a pair, and what completes
            it; None looks for the usual names.
        force: replace an existing `output`.
        progress: called with a phase and the share of it that is done.
        options: the method's own options.

    Raises:
        CheckpointError: if the source is unreadable or malformed.
        RefusedError: if it is no low-rank update, the method can't represent it, or a basis is missing.
        UsageError: if options contradict each other or are unknown, or `output` is or lies in what is read.
        CheckFailedError: if the budget or the error can't be met.
        OutputError: if `output` exists without `force`, or cannot be written.

    Warns with an AdaptzipWarning where the file names a path on this machine as the base model.
    """
    request = Request(
        to, budget, max_error, extras, alpha, config, device, seed, base, basis, embed_basis, calibration, allocate,
        ranks, options, base_name, text_field, pair_field, completion_field,
    )  # fmt: skip
    if output is not None:
        check_apart(output, source=source, **request.inputs)
        check_output(output, force)
    if lossless:
        _check_nothing_chosen(request)
        method = load(to)
        if isinstance(method, FunctionMethod):
            raise method.refusal()
        loaded = load_source(source, request, lossless=True)
        warn_of_local_name(loaded.adapter.meta.base_model)
        compressed = replace(exact(loaded, method.name, method.version, seed), renamed=base_name is not None)
    else:
        loaded = load_source(source, request)
        warn_of_local_name(loaded.adapter.meta.base_model)
        compressed = make_from(loaded, request, progress).compressed
    if output is not None:
        writer.write(compressed, output, force=force)
    return compressed


def make(source: str | Path | Adapter, request: Request, progress: Progress | None = None) -> Made:
    """Compress as a request says; nothing is written.

    Raises:
        CheckpointError, RefusedError, UsageError, CheckFailedError: as `compress`.
    """
    return make_from(load_source(source, request), request, progress)


def make_from(source: Source, request: Request, progress: Progress | None = None) -> Made:
    """Compress a source that was read; as `make`."""
    if request.to == AUTO:
        from adaptzip.fitting.forecasts import choose

        return choose(source, request, progress)
    return run(prepare_job(source, request), progress)


def run(job: Job, progress: Progress | None = None, *, most: int = _FITTED) -> Made:
    """Fit the best candidates of a method, and keep the one that meets the limits best.

    Args:
        most: candidates that are fitted; of adapters too large to keep their fits, one.

    Raises:
        RefusedError: if the method can't represent the adapter.
        CheckFailedError: if the limits can't be met.
    """
    job = with_ranks(job)
    best: Made | None = None
    failures: list[CheckFailedError] = []
    count = most if job.adapter.parameters <= KEPT_NUMBERS else 1
    tried: list[Candidate] = []
    for propose in _proposals(job):
        try:
            found = [candidate for candidate in propose()[:count] if not _among(tried, candidate)]
        except CheckFailedError as error:
            failures.append(error)
            continue
        tried += found
        for candidate in found:
            try:
                made = _run(job, candidate, progress)
            except CheckFailedError as error:
                failures.append(error)
                continue
            if best is None or _order(job, made) < _order(job, best):
                best = made
        if best is not None:
            break
    if best is None:
        raise why_not(failures)
    _warn_of_room(job, best)
    return best


def _proposals(job: Job) -> list[Callable[[], list[Candidate]]]:
    """Settings to try, one list after another until one of them meets the limits."""
    if job.request.max_error is None:
        return [lambda: candidates(job), lambda: smallest(job)]
    # A method that predicts too well is asked for smaller errors than it has to reach.
    aims = _AIMS if job.method.fixed_ranks else _AIMS[:1]
    return [partial(candidates, job, aim) for aim in aims]


def _among(tried: Sequence[Candidate], candidate: Candidate) -> bool:
    return any(candidate.config == other.config for other in tried)


def why_not(failures: Sequence[CheckFailedError]) -> CheckFailedError:
    """Of all that stood in the way the first, or the one that asks for the least room."""
    if not failures:
        return CheckFailedError("the method has no setting for this adapter", hint="choose another with --to")
    return min(failures, key=lambda e: e.least if isinstance(e, NoRoomError) and e.least is not None else inf)


def fit_candidate(job: Job, candidate: Candidate, progress: Progress | None = None) -> FittedAdapter:
    """Fit one setting of a method."""
    return fit_adapter(job.method, candidate.config, job.adapter, job.context, survey=job.survey, progress=progress)


@on_one_core()
def _run(job: Job, candidate: Candidate, progress: Progress | None) -> Made:
    fitted = fit_candidate(job, candidate, progress)
    if not fitted.profiles:
        compressed = assemble(job, fitted, 0.0, NOTHING_CODED, 0.0)
        return Made(compressed, 0.0, writer.size(compressed), {})
    control, limits = control_of(job, fitted, progress)
    outcome = control.meet(limits)
    compressed = assemble(job, fitted, outcome.step, outcome.coded, outcome.error)
    if job.source.sensitivities:
        compressed = _with_plain_error(job, compressed)
    return Made(compressed, outcome.error, writer.size(compressed), _kept(outcome), outcome.distortion)


def _kept(outcome: Outcome) -> dict[str, int]:
    return {name: rank for name, rank in outcome.ranks.items() if name in outcome.coded.modules}


def _with_plain_error(job: Job, compressed: Compressed) -> Compressed:
    """State the plain error, whatever was minimised."""
    after = reconstruct(compressed, base=job.request.base, basis=_path(job.request.basis))
    error = diff(job.adapter, after).relative_error or 0.0
    return replace(compressed, provenance=replace(compressed.provenance, relative_error=float(f"{error:.6g}")))


def _path(basis: str | Path | Basis | None) -> str | Path | None:
    return None if isinstance(basis, Basis) else basis


def _order(job: Job, made: Made) -> tuple[float, float]:
    """What is better comes first: the smaller file where an error is to be met, else the smaller error."""
    by_size = job.request.max_error is not None
    return (made.size, made.error) if by_size else (made.error, made.size)


def _warn_of_room(job: Job, made: Made) -> None:
    limit = job.request.limit
    size = None if limit is None else limit.bytes_for(job.source.bytes)
    if size is None or job.request.max_error is not None or not made.ranks:
        return
    fixed = fixed_size(made.compressed)
    room = size - fixed
    if size - made.size <= max(_LEFT * room, GRAIN):
        return
    reason = "the next component does not fit" if made.distortion > 2 * FINEST_ERROR else "more would buy nothing"
    kind = "weighted" if job.source.sensitivities else "relative"
    warnings.warn(
        f"the file takes {made.size} bytes, the update {(made.size - fixed) / room:.0%} of its part of the budget "
        f"({room} bytes), at {kind} error {made.error:.2g}: {reason}",
        AdaptzipWarning,
        stacklevel=4,
    )


def _check_nothing_chosen(request: Request) -> None:
    chosen = (request.budget, request.max_error, request.allocate, request.calibration, request.basis, request.ranks)
    if any(item is not None for item in chosen) or request.options or request.extras != "lossless":
        raise UsageError("lossless leaves nothing to choose", hint="drop --lossless, or the other option")
