"""Functions behind a model's layers: which layers, and what training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from adaptzip._version import __version__
from adaptzip.adz.coding.coders import Coder
from adaptzip.adz.coding.grouping import group
from adaptzip.adz.container import writer
from adaptzip.core.compressed import Compressed, Provenance, Site
from adaptzip.core.function_method import AnyFunctionMethod, FunctionMethod, RankedConfig
from adaptzip.distillation.beginning import MORE, Beginning, fitted_or_read
from adaptzip.distillation.quantising import code
from adaptzip.distillation.tensors import FIRST_STEP, Tensors, scale_of
from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.fitting.assembly import LONGEST_ERROR, stored_options
from adaptzip.fitting.loading import pack_extras
from adaptzip.fitting.requests import Original, Request, configure
from adaptzip.methods import load
from adaptzip.models.live.layers import find_layers
from adaptzip.models.live.running import LoadedModel

_BITS = 3.0
"""What a trained number takes, about, where the rank follows from the budget."""


def starting_from(
    start: Path | Original,
    teacher: Original,
    request: Request,
    loaded: LoadedModel,
    device: torch.device,
    room: int = 0,
    more: float = MORE,
) -> Beginning:
    """What training starts from: a file, a fit, or functions that are the identity as yet.

    Args:
        start: a `.adz`, or the adapter to fit, which may be the teacher.
        room: bytes that are left for what the file will say of its training.
        more: ranks of a fit are those of one with so many times the room.

    Raises:
        FormatError, RefusedError, UsageError, CheckFailedError: as `fitted_or_read`.
    """
    method = None if isinstance(start, Path) else load(request.to)
    if not isinstance(method, FunctionMethod):
        return fitted_or_read(start, request, device, room, more)
    if start is not teacher:
        raise UsageError(
            f"method {method.name!r} starts from nothing, so that no adapter can be given", hint="give `teacher=` alone"
        )
    return _from_nothing(method, teacher, request, loaded, device, room)


def _from_nothing(
    method: AnyFunctionMethod,
    source: Original,
    request: Request,
    loaded: LoadedModel,
    device: torch.device,
    room: int,
) -> Beginning:
    for option, value in (("max-error", request.max_error), ("allocate", request.allocate), ("basis", request.basis)):
        if value is not None:
            raise UsageError(f"method {method.name!r} has no use for --{option}", hint=f"leave --{option} out")
    if request.budget is None:
        raise UsageError("distilling needs a size", hint="add `budget='2kB'`, or 100x")
    config: RankedConfig = configure(method, request.options)
    sites = method.places(_widths(loaded), config)
    limit, plan = request.budget.bytes_for(source.bytes), _plan(method, config, sites, source, request)
    numbers = request.budget.amount if limit is None else 8 * (limit - writer.size(plan) - room) / _BITS
    ranks = _ranks(method, config, sites, numbers)
    if limit is None:
        _check_parameters(method, config, sites, ranks, int(numbers))
    most = max(ranks.values())
    coder = Coder(method, config, sites, most)
    tensors = Tensors({}, method.start(sites, ranks, config, request.seed), ranks).to(device)
    step = FIRST_STEP * scale_of(tensors)
    coded, _ = code(coder, tensors, step)
    chunks, grouped = [coded.modules[name].chunk for name in sites], group(coder, coded.modules)
    plan = replace(plan, max_rank=most, step=step, chunks=chunks, grouped=grouped)
    return Beginning(coder, {}, tensors, step, plan, limit or writer.size(plan) + room, 0, {})


def _widths(loaded: LoadedModel) -> dict[str, int]:
    """Widths of the outputs of all layers whose weight is a matrix, by name."""
    names = [
        name
        for name, module in loaded.model.named_modules()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
        and weight.ndim == 2
        and not isinstance(module, nn.Embedding)
    ]
    return {name: layer.shape[0] for name, layer in find_layers(loaded.model, names, Path()).items()}


def _ranks(
    method: AnyFunctionMethod, config: RankedConfig, sites: Mapping[str, Site], numbers: float
) -> dict[str, int]:
    """One rank for all: the one asked for, or the largest that keeps to so many numbers, at least 1."""

    def ranks(rank: int) -> dict[str, int]:
        return {name: min(rank, method.max_rank(site, config)) for name, site in sites.items()}

    def count(rank: int) -> int:
        return sum(s.numbers for name, r in ranks(rank).items() for s in method.layout(sites[name], r, config))

    if config.rank is not None:
        return ranks(config.rank)
    best, most = 1, max(method.max_rank(site, config) for site in sites.values())
    while best < most and count(best + 1) <= numbers:
        best += 1
    return ranks(best)


def _check_parameters(
    method: AnyFunctionMethod, config: RankedConfig, sites: Mapping[str, Site], ranks: Mapping[str, int], most: int
) -> None:
    stored = sum(s.numbers for name, rank in ranks.items() for s in method.layout(sites[name], rank, config))
    if stored > most:
        raise CheckFailedError(
            f"method {method.name!r} stores {stored} parameters, more than the {most} allowed",
            hint=f"allow at least {stored} parameters",
        )


def _plan(
    method: AnyFunctionMethod, config: RankedConfig, sites: Mapping[str, Site], source: Original, request: Request
) -> Compressed:
    """The file without any function. DoRA magnitudes and biases belong to updates, and are left out."""
    return Compressed(
        method=method.name,
        method_version=method.version,
        config=stored_options(config),
        sites=sites,
        max_rank=0,
        chunks=[b""] * len(sites),
        step=0.0,
        provenance=Provenance(f"adaptzip {__version__}", source.bytes, source.hash, LONGEST_ERROR, 0, request.seed),
        extras=pack_extras(replace(source.adapter, modules={}), request.extras, folded=True),
        meta=source.adapter.meta.described,
    )
