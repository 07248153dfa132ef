"""What training starts from: a fit of the teacher within a budget, or a file that was made before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder, Coder
from adaptzip.adz.coding.decoding import decode_ranked, decode_shared
from adaptzip.adz.coding.grouping import alone, decode_group
from adaptzip.adz.coding.modules import CodedBlock, CodedModule
from adaptzip.adz.container import writer
from adaptzip.adz.container.reader import open_adz
from adaptzip.checkpoints._base_name import renamed
from adaptzip.core.budget import Budget
from adaptzip.core.compressed import Compressed, TensorSpec
from adaptzip.core.trainable import AnyTrainable
from adaptzip.distillation.growing import GROWING, Growth, growth_of, room_to_grow
from adaptzip.distillation.in_frames import as_fitted, held_in_frames, in_frames, still_in_frames
from adaptzip.distillation.quantising import Written, code
from adaptzip.distillation.tensors import FIRST_STEP, Tensors, scale_of, start
from adaptzip.distillation.trainable import as_trainable, trained
from adaptzip.errors import CheckFailedError, NoRoomError, RefusedError, UsageError, without_warnings
from adaptzip.fitting.asked_banks import trains_bank
from adaptzip.fitting.asked_starts import asked_start
from adaptzip.fitting.assembly import LONGEST_ERROR, assemble
from adaptzip.fitting.candidates import candidates, empty_file, smallest, with_ranks
from adaptzip.fitting.fits import CodedAdapter, FittedAdapter
from adaptzip.fitting.framing import fit_framed
from adaptzip.fitting.job_limits import control_of
from adaptzip.fitting.requests import Job, Original, Request, prepare_job
from adaptzip.fitting.running import why_not
from adaptzip.fitting.steps import round_step
from adaptzip.fitting.surveys import sites_of
from adaptzip.methods import load_fittable
from adaptzip.restoring.reconstruction import coder_of

MORE = 1.7
"""Ranks are those of a fit with so many times the room: training makes do with coarser numbers (measured)."""
_BITS = 1.2
"""What a number of a core between untrained directions takes, about, where its rank follows from the budget (measured:
many coarse numbers do better than few fine ones)."""
_FITTED = 3
"""Settings of a method that are tried until one keeps to the budget."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """The form of a file, and the tensors that training starts from.

    Attributes:
        coder, gains: of the file.
        tensors: before quantisation.
        step: at which they are coded, about.
        plan: the file without its blocks.
        limit: most bytes of the whole file.
        basis_numbers: numbers of an embedded basis.
        found: base and basis, where decoding needs them.
        given: the file that is trained further, as it is, where it keeps to the limit.
        growth: where training begins with smaller ranks that grow; `tensors` are the fit's nevertheless.
    """

    coder: Coder[AnyTrainable]
    gains: Mapping[str, int]
    tensors: Tensors
    step: float
    plan: Compressed
    limit: int
    basis_numbers: int
    found: Mapping[str, Any]
    given: Written | None = None
    growth: Growth | None = None


def fitted_or_read(
    start: Path | Original, request: Request, device: torch.device, room: int = 0, more: float = MORE
) -> Beginning:
    """A file's own tensors, or those of a fit.

    Args:
        start: a `.adz`, or the adapter to fit.
        room: bytes that a fit leaves for what the file will say of its training.
        more: ranks are those of a fit with so many times the room.

    Raises:
        FormatError, RefusedError: if something can't be read or represented.
        UsageError: if there is no budget, or one that contradicts the file.
        CheckFailedError: if nothing fits the budget.
    """
    return _from_file(start, request, device) if isinstance(start, Path) else _from_fit(start, request, room, more)


def _from_file(path: Path, request: Request, device: torch.device) -> Beginning:
    compressed = _named(open_adz(path), request.base_name)
    _check_nothing_chosen(request, compressed)
    if compressed.lossless:
        raise RefusedError(f"{path}: is lossless, so that it has nothing to train", hint="compress with a budget first")
    found: dict[str, Any] = {"base": request.base, "basis": request.coded_in(compressed.method)}
    coder = trained(coder_of(compressed, **found))
    if coder.given:
        raise trains_bank()
    if coder.basis is not None:
        coder = replace(coder, basis=coder.basis.to(device))
    step = compressed.step
    shared = _in_units(decode_shared(coder, compressed.shared, step), coder.method.shared_layout(coder.config), step)
    modules: dict[str, dict[str, Tensor]] = {}
    ranks: dict[str, int] = {}
    own = _modules(coder, compressed)
    for name, (module, found_tensors) in own.items():
        ranks[name] = module.rank
        layout = coder.method.layout(coder.sites[name], module.rank, coder.config)
        modules[name] = _in_units(found_tensors, layout, step)
    tensors = still_in_frames(coder, Tensors(shared, modules, ranks).to(device))
    gains = dict(zip(compressed.sites, compressed.gains, strict=True)) if compressed.gains else {}
    limit = (
        writer.size(compressed)
        if request.budget is None
        else request.budget.bytes_for(compressed.provenance.source_bytes)
    )
    if limit is None:
        raise UsageError("a file that exists is trained within bytes, not parameters", hint="write `budget='2kB'`")
    basis_numbers = compressed.provenance.parameters - tensors.numbers
    size = writer.size(compressed)
    shared_block = CodedBlock(
        bytes(compressed.shared), tensors.shared, sum(tensor.numel() for tensor in tensors.shared.values())
    )
    as_it_is = CodedAdapter(shared_block, {name: module for name, (module, _) in own.items()})
    given = Written(step, as_it_is, tensors, size) if size <= limit else None
    return Beginning(coder, gains, tensors, step, compressed, limit, basis_numbers, found, given)


def _modules(coder: AnyCoder, compressed: Compressed) -> dict[str, tuple[CodedModule, dict[str, Tensor]]]:
    """A file's own blocks and their tensors, of the modules that have a rank."""
    step = compressed.step
    if compressed.grouped:
        group = decode_group(coder, compressed.grouped, step)
        return {name: (alone(coder, coded), tensors) for name, (coded, tensors) in group.items()}
    found = {}
    for name, chunk in zip(compressed.sites, compressed.chunks, strict=True):
        rank, tensors = decode_ranked(coder, chunk, step, name)
        if rank:
            numbers = sum(tensor.numel() for tensor in tensors.values())
            found[name] = CodedModule(bytes(chunk), nan, numbers, rank), tensors
    return found


def _named(compressed: Compressed, base_name: str | None) -> Compressed:
    if base_name is None:
        return compressed
    return replace(compressed, meta=renamed(compressed.meta, base_name))


def _check_nothing_chosen(request: Request, compressed: Compressed) -> None:
    """Refuse what a file that exists has decided already."""
    hint = "leave it out, or start from the teacher"
    chosen = {
        "`allocate=`": request.allocate is not None,
        "`max_error=`": request.max_error is not None,
        "`options=`": bool(request.options),
        "`extras=`": request.extras != Request.extras,
        "`embed_basis=True`": request.embed_basis,
        "`start=`": asked_start(request.start).given,
        "`to=`": request.to not in (Request.to, compressed.method),
    }
    for option, given in chosen.items():
        if given:
            raise UsageError(f"{option}: a file that exists keeps its form", hint=hint)


def _from_fit(source: Original, request: Request, room: int, more: float) -> Beginning:
    if request.budget is None:
        raise UsageError("distilling needs a size", hint="add `budget='2kB'`, or 100x, or give a .adz file to train")
    limit = request.budget.bytes_for(source.bytes)
    training = _for_training(source, request, room)
    wanted = training.options.get("rank")
    growing = request.allocate == GROWING
    if growing:
        training = room_to_grow(training, min(min(m.shape) for m in source.adapter.modules.values()))
    if limit is not None:
        training = replace(training, budget=Budget(max(1, limit - room), "bytes"))
    job = with_ranks(prepare_job(source, training))
    fitted, step, ranks = _first_that_fits(job, room, more, limit)
    if growing and isinstance(wanted, int):
        ranks = {name: min(rank, wanted) for name, rank in ranks.items()}
    # Where no file fits with larger ranks, neither would one with more components.
    keeps = not growing and limit is not None and more > 1
    inside = in_frames(*as_fitted(job, fitted), _blocks(job, fitted)) if keeps else None
    if inside is not None:
        fitted, ranks = inside.fitted, inside.ranks
    tensors = start(fitted, ranks, step)
    if inside is not None:
        tensors = held_in_frames(fitted.coder, tensors)
    if fitted.method.fits_little:
        step = round_step(FIRST_STEP * scale_of(tensors))
    coded, _ = code(fitted.coder, tensors, step)
    plan = assemble(job, fitted, step, coded, LONGEST_ERROR)
    if limit is None:
        _check_parameters(plan.provenance.parameters, request.budget)
        limit = writer.size(plan) + room
    found = {"base": request.base, "basis": request.coded_in(plan.method)}
    growth = growth_of(fitted, ranks, step) if growing else None
    return Beginning(
        trained(fitted.coder), fitted.gains, tensors, step, plan, limit, fitted.basis_numbers, found, growth=growth
    )  # fmt: skip


def _blocks(job: Job, fitted: FittedAdapter) -> int:
    """Bytes that the budget leaves for blocks."""
    control, limits = control_of(job, fitted)
    return (limits.size or 0) - control.steps.fixed_size


def _first_that_fits(
    job: Job, room: int, more: float, limit: int | None
) -> tuple[FittedAdapter, float, dict[str, int]]:
    """The best setting that keeps to the budget, with its step and ranks."""
    failures: list[CheckFailedError] = []
    for candidate in (*candidates(job)[:_FITTED], *smallest(job)[:1]):
        fitted = fit_framed(job, candidate)[0]
        if not fitted.profiles:
            raise RefusedError("every update of the teacher is zero: there is nothing to act like")
        try:
            with without_warnings():
                return fitted, *_step_and_ranks(job, fitted, room, more, limit)
        except CheckFailedError as error:
            failures.append(error.with_traceback(None))
    raise why_not(failures)


def _check_parameters(numbers: int, limit: Budget) -> None:
    if numbers > limit.amount:
        raise CheckFailedError(
            f"the smallest core takes {numbers} parameters, more than the {limit.amount:.0f} allowed",
            hint="allow more parameters, or a lower rank",
        )


def _step_and_ranks(
    job: Job, fitted: FittedAdapter, room: int, more: float, limit: int | None
) -> tuple[float, dict[str, int]]:
    """As a fit would have them; every module has the whole rank where a fit holds next to nothing of the update."""
    control, limits = control_of(job, fitted)
    control = replace(control, reserved=room)
    if limit is not None and limit <= room:
        raise control.no_room(limit - room)
    if limits.size is not None:
        control.check_size(limits.size)
    if _untrained(job):
        step = float(fitted.energy**0.5 / 100)
        return step, {name: len(profile.scores) for name, profile in fitted.profiles.items()}
    asked = limits.size
    if asked is not None and not fitted.fixed_ranks:
        fixed = control.steps.fixed_size
        limits = replace(limits, size=fixed + round(more * (asked - fixed)))
    try:
        outcome = control.meet(limits)
    except NoRoomError as error:
        if asked is None:
            raise
        raise control.no_room(asked) from error
    return outcome.step, {n: rank for n, rank in outcome.ranks.items() if n in outcome.coded.modules}


def _untrained(job: Job) -> bool:
    """Whether what a fit keeps says little: the method's all do, or the directions were made without the adapter."""
    basis = job.context.basis
    return job.method.fits_little or (job.method.needs_basis and basis is not None and basis.reference.source == "base")


def _for_training(source: Original, request: Request, room: int) -> Request:
    """The request with what a method relaxes where training follows, and a core as large as the budget allows."""
    method = load_fittable(request.to)
    options = {**as_trainable(method).training_options, **request.options}
    limit = request.budget
    if not method.needs_basis or method.default_basis != "base" or request.basis is not None or "rank" in options:
        return replace(request, options=options)
    config = method.config_type(**options)
    sites = list(sites_of(source.adapter).values())
    numbers = limit.amount if limit and limit.unit == "parameters" else 0
    if limit and not numbers:
        plain = prepare_job(replace(source, frames=None), Request(device=request.device, seed=request.seed))
        left = (limit.bytes_for(source.bytes) or 0) - writer.size(empty_file(plain)) - room
        numbers = 8 * max(0, left) / _BITS
    rank = 1
    most = min(min(site.out, site.width) for site in sites)
    while rank < most and sum(s.numbers for site in sites for s in method.layout(site, rank + 1, config)) <= numbers:
        rank += 1
    return replace(request, options={**options, "rank": rank})


def _in_units(tensors: Mapping[str, Tensor], layout: Iterable[TensorSpec], step: float) -> dict[str, Tensor]:
    """Directions, which are decoded as whole numbers, in the units of the update."""
    units = {spec.role: step if spec.directions else 1.0 for spec in layout}
    return {role: tensor * units[role] if units[role] != 1.0 else tensor for role, tensor in tensors.items()}
