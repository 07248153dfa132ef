"""Choosing between methods: by their forecasts, and by what comes of those that are worth fitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import torch

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.budget import AnyBudget, Budget
from adaptzip.core.calling import public
from adaptzip.core.progress import Progress
from adaptzip.errors import CheckFailedError, RefusedError, UsageError, without_warnings
from adaptzip.fitting.candidates import candidates, with_ranks
from adaptzip.fitting.forecasts import Forecast, PlanReport, compare, foresee_candidate, with_aim
from adaptzip.fitting.keywords import method_options
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.measuring import measured_error
from adaptzip.fitting.requests import AUTO, Original, Request, check_start_used, prepare_job
from adaptzip.fitting.running import Made, Tried, run
from adaptzip.methods import REFERENCE, MethodOptions, fittable
from adaptzip.models.hub import base_path

_HOPELESS = 1.5
"""A method whose predicted error is this many times the best measured one is not fitted."""


@public
def plan(
    source: str | Path | Adapter,
    *,
    methods: Sequence[str] | None = None,
    budget: AnyBudget | None = None,
    max_error: float | None = None,
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
    calibration: str | Path | None = None,
    allocate: str | None = None,
    ranks: Mapping[str, int] | None = None,
    base_name: str | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
    progress: Progress | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Unpack[MethodOptions],
) -> PlanReport:
    """What `compress` would give with each method, predicted; nothing is written.

    Args:
        source: a checkpoint's path, or an adapter that was read already.
        methods: names of the methods to compare; all that need no training where it is None.
        budget: an upper limit in parameters, bytes or as a share of the source (`Budget`).
        max_error: largest relative error |dW - dW'| / |dW| over all modules together; 0.1 where neither this nor a
            budget is given. The best forecast is the smallest then, and of a budget the one with the smallest error.
        extras: how tensors that are no factors are kept: "lossless", "float16", "bfloat16" or "int8".
        alpha, config, dialect: as for `read`.
        device: "auto", "cpu", "cuda", "cuda:N" or a `torch.device`, for the fit.
        seed: of every random choice.
        base: folder of the base model, for methods whose basis is that of its weights, and for calibration.
        basis: a basis, or the path of a basis artefact, for methods that need one.
        embed_basis: store the basis in the file.
        start: where A began, as for `compress`.
        calibration: a file of texts; errors are then weighted by what the base feeds each module.
        allocate: "uniform", "energy" or "increlora": how ranks are shared out over modules.
        ranks: the largest rank of each module; modules that it does not name are left out.
        base_name: what the file would call the base model; None keeps the adapter's own name for it.
        text_field, pair_field, completion_field: where its rows have the text, the second of a pair, and what completes
            it; None looks for the usual names.
        progress: told how far it is (`adaptzip.core.progress.Progress`).
        options: the method's own options by name, where `methods` names one, such as {"rank": 3} of vblora; svd has
            none.
        settings: the same by name, as in `rank=3`, for the methods of this package.

    Raises:
        CheckpointError: if the source is unreadable or malformed.
        RefusedError: if it is no low-rank update.
        BaseModelError: if calibration can't run the base model.
        UsageError: if options contradict each other or are unknown, or there is no such method. What a method can't do
            is among the report's refusals.

    Example:
        >>> report = adaptzip.plan("my-adapter", methods=["svd", "loretta"], budget="20%")
        >>> sorted(forecast.method for forecast in report.forecasts)
        ['loretta', 'svd']
        >>> report.best.bytes <= report.source_bytes / 5
        True
    """
    if isinstance(methods, str):
        raise UsageError(f"methods is {methods!r}, expected a list of names", hint=f"methods=[{methods!r}]")
    chosen = method_options(plan, fittable() if methods is None else methods, options, settings)
    asked = Request(
        to=AUTO,
        budget=Budget.of(budget),
        max_error=max_error,
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
        calibration=calibration,
        allocate=allocate,
        ranks=ranks,
        options=chosen,
        base_name=base_name,
        text_field=text_field,
        pair_field=pair_field,
        completion_field=completion_field,
    )
    return plan_of(source, asked, methods, progress)


def plan_of(
    source: str | Path | Adapter,
    request: Request,
    methods: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> PlanReport:
    """`plan` of a request, whose own method counts for nothing.

    Raises:
        CheckpointError, RefusedError, BaseModelError, UsageError: as `plan`.
    """
    return compare(load_source(source, request), request, methods, progress)


@dataclass(frozen=True)
class Foreseen:
    """What `compress` is expected to give.

    Attributes:
        best: the forecast of what it would make.
        report: all that it would choose from, where the choice of the method is left open.
    """

    best: Forecast
    report: PlanReport | None = None


def foresee(source: Original, request: Request, progress: Progress | None = None) -> Foreseen:
    """What `make_from` with the same request would give, from the method's own model; nothing is coded.

    Raises:
        RefusedError, UsageError, CheckFailedError: as `compress`.
    """
    if request.to == AUTO:
        report = compare(source, request, None, progress)
        return Foreseen(report.best, report)
    check_start_used(request)
    job = with_ranks(prepare_job(source, request))
    return Foreseen(foresee_candidate(job, candidates(job)[0], progress))


def forecast(source: str | Path | Adapter | Original, request: Request, progress: Progress | None = None) -> Forecast:
    """What `compress` with the same request would give, as `foresee`.

    Raises:
        CheckpointError, RefusedError, UsageError, CheckFailedError: as `compress`.
    """
    loaded = source if isinstance(source, Original) else load_source(source, request)
    return foresee(loaded, request, progress).best


def choose_method(source: Original, request: Request, progress: Progress | None = None) -> Made:
    """Whichever method gives the smallest error, or for an error the smallest file, at its true size.

    Methods are fitted in the order of their forecasts; one whose forecast is hopeless beside what was measured is not.

    Raises:
        CheckFailedError: if none meets the limits.
    """
    request = with_aim(request)
    report = compare(source, request, None, progress)
    tried: list[Tried] = [Tried(refusal.method, reason=refusal.reason) for refusal in report.refusals]
    best: Made | None = None
    by_size = request.max_error is not None
    for name in dict.fromkeys(f.method for f in report.forecasts):
        first = next(f for f in report.forecasts if f.method == name)
        if best is not None and _hopeless(first, best, len(source.extras.payload) if by_size else None):
            tried.append(Tried(name, reason=f"expected {first.bytes} bytes at error {first.relative_error:.3g}"))
            continue
        try:
            with without_warnings():
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
    """The reference method at `size` bytes of the same adapter; None where it can't be made so small.

    Where the request has an error to meet, it is as near as it can be, as what it stands beside.
    """
    plain = replace(
        request, to=REFERENCE, budget=Budget(size, "bytes"), max_error=None, allocate=None, ranks=None, options={}
    )
    with without_warnings():
        try:
            return run(prepare_job(source, plain), nearest=request.max_error is not None)
        except CheckFailedError:
            return None


def _hopeless(forecast: Forecast, best: Made, extras: int | None) -> bool:
    """By size, that of the extras not counted, which no method changes; by error where `extras` is None."""
    if extras is not None:
        return forecast.bytes - extras > _HOPELESS * (best.size - extras)
    return forecast.relative_error > _HOPELESS * best.error
