"""From an adapter to a compressed one, and to a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.adz.container import writer
from adaptzip.checkpoints._base_name import warn_of_local_name
from adaptzip.checkpoints._functions import FunctionDialect
from adaptzip.checkpoints._registry import conventions
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.budget import AnyBudget, Budget
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed
from adaptzip.core.effort import Effort
from adaptzip.core.progress import Progress
from adaptzip.files.atomic import check_output
from adaptzip.files.inputs import check_apart
from adaptzip.fitting.asked_banks import check_bank_used
from adaptzip.fitting.assembly import exact
from adaptzip.fitting.choosing import choose_method
from adaptzip.fitting.keywords import method_options
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import AUTO, Job, Original, Request, check_start_used, prepare_job
from adaptzip.fitting.running import Made, run
from adaptzip.fitting.seed_search import SeedSearch, search_note
from adaptzip.methods import REFERENCE, MethodOptions, fittable, load, load_fittable
from adaptzip.models.hub import base_path


@public
def compress(
    source: str | Path | Adapter,
    output: str | Path | None = None,
    *,
    to: str = REFERENCE,
    budget: AnyBudget | None = None,
    max_error: float | None = None,
    lossless: bool = False,
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
    search_starts: bool | SeedSearch = False,
    effort: Effort = "default",
    calibration: str | Path | None = None,
    allocate: str | None = None,
    ranks: Mapping[str, int] | None = None,
    base_name: str | None = None,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Unpack[MethodOptions],
) -> Compressed:
    """Compress an adapter, and write it to `output` if that is given.

    Args:
        source: a checkpoint's path, or an adapter that was read already.
        to: name of the method; "auto" keeps the one with the smallest error.
        budget: an upper limit in parameters, bytes or as a share of the source (`Budget`). A size in bytes is met
            from below, within 1 % of what it leaves for the update besides header, tables and extras, and with "fast"
            within 2 %. Without an error to meet, an update of an error above 0.12 is larger than the nearest one, which
            is too small to act alike.
        max_error: largest relative error |dW - dW'| / |dW| over all modules together, weighted where there is
            calibration; met from below with the smallest file. 0.1, or what the method can reach, where neither this
            nor a budget is given.
        lossless: keep every tensor bit for bit instead.
        extras: how tensors that are no factors are kept: "lossless", "float16", "bfloat16" or "int8".
        alpha, config, dialect: as for `read`.
        device: "auto", "cpu", "cuda", "cuda:N" or a `torch.device`, for the fit.
        seed: of every random choice.
        base: folder of the base model, for methods whose basis is that of its weights, and for calibration.
        basis: a basis, or the path of a basis artefact, for methods that need one; svd codes in its directions too.
        embed_basis: store the basis in the file, which then needs neither base nor artefact.
        start: where the adapter's A may have begun, which need not be stored then: None looks for it, in a recorded
            seed beside the source, popular seeds, and directions of `base`; "none" does not; a seed, or "SEED:OFFSET"
            with the numbers drawn before some module; "base"; or the path of a recorded start, of another adapter that
            began alike or of a basis artefact, which is then needed to decode.
        search_starts: where no start is found otherwise, try all 2^32 seeds at the places where PEFT would put the
            first module: an hour of processor time or several, where there is no GPU. With `output` it can
            be stopped and goes on later, by a file beside it. A `SeedSearch` narrows it.
        effort: "fast" looks for no start, and ends the search for the step sooner. Where no start would be found files
            are then about 1 % larger, and hardly ever more than 3 %. "best" ends it later too, and looks further.
        calibration: a file of texts; errors are then weighted by what the base feeds each module.
        allocate: "uniform", "energy" or "increlora": how ranks are shared out over modules.
        ranks: the largest rank of each module; modules that it does not name are left out.
        base_name: what the file calls the base model; None keeps the adapter's own name for it. With `lossless`
            everything else is still kept bit for bit.
        text_field, pair_field, completion_field: where its rows have the text, the second of a pair, and what completes
            it; None looks for the usual names.
        force: replace an existing `output`.
        progress: told how far it is (`adaptzip.core.progress.Progress`).
        options: the method's own options by name, such as {"rank": 3} of vblora; svd needs none.
        settings: the same by name, as in `rank=3`, for the methods of this package.

    Raises:
        CheckpointError: if the source is unreadable or malformed.
        RefusedError: if it is no low-rank update, the method can't represent it, or a basis is missing.
        UsageError: if options contradict each other or are unknown, or `output` is or lies in what is read.
        CheckFailedError: if the budget or the error can't be met.
        OutputError: if `output` exists without `force`, or cannot be written.

    Warns with an AdaptzipWarning where the file names a path on this machine as the base model.

    Example:
        >>> small = adaptzip.compress("my-adapter", "small.adz", max_error=0.2, base_name="somebody/some-base")
        >>> small.provenance.relative_error <= 0.2
        True
        >>> exact = adaptzip.compress("my-adapter", lossless=True, base_name="somebody/some-base")
        >>> exact.provenance.relative_error
        0.0
    """
    chosen = method_options(compress, fittable() if to == AUTO else (to,), options, settings)
    if search_starts is True:
        search_starts = SeedSearch(note=None if output is None else search_note(output), progress=progress)
    request = Request(
        to=to,
        budget=Budget.of(budget),
        max_error=max_error,
        lossless=lossless,
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
        search_starts=search_starts,
        effort=effort,
        calibration=calibration,
        allocate=allocate,
        ranks=ranks,
        options=chosen,
        base_name=base_name,
        text_field=text_field,
        pair_field=pair_field,
        completion_field=completion_field,
    )
    if output is not None:
        check_apart(output, source=source, **request.inputs)
        check_output(output, force)
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


def make_from(source: Original, request: Request, progress: Progress | None = None, *, job: Job | None = None) -> Made:
    """Compress a source that was read; as `make`.

    Args:
        job: what `job_of` gives for the same source and request, where it is there already.
    """
    if request.lossless:
        return _exact(source, request)
    if request.to == AUTO:
        return choose_method(source, request, progress)
    return run(job or _job(source, request), progress)


def job_of(source: Original, request: Request) -> Job | None:
    """The one job that a request comes to; None where it is lossless, or leaves the method open.

    Raises:
        RefusedError, UsageError: as `compress`.
    """
    return None if request.lossless or request.to == AUTO else _job(source, request)


def _job(source: Original, request: Request) -> Job:
    check_start_used(request)
    check_bank_used(source, request)
    return prepare_job(source, request)


def _exact(source: Original, request: Request) -> Made:
    own = conventions(source.adapter.meta.dialect)
    method = load(own.takes[0]) if isinstance(own, FunctionDialect) else load_fittable(request.to)
    compressed, saved = exact(source, method.name, method.version, request.seed)
    compressed = replace(compressed, renamed=request.base_name is not None)
    ranks = {name: m.rank for name, m in source.adapter.modules.items()}
    return Made(compressed, 0.0, writer.size(compressed), ranks, saved=saved)
