"""`vblora` with a bank of many adapters: fitting one, and what an adapter makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.bank import BankShape
from adaptzip.core.bank_builder import FittedBank, Fleet
from adaptzip.core.method import FitContext
from adaptzip.errors import RefusedError, UsageError
from adaptzip.methods._banks.factors import Coded, Group, groups, squared_errors
from adaptzip.methods._banks.fit import Shape
from adaptzip.methods._banks.fleet import Sample, coded_groups, draw, fit_fleet
from adaptzip.methods._banks.refining import decoded, exposures
from adaptzip.methods._banks.search import Setting
from adaptzip.methods._banks.single import expanded
from adaptzip.methods._banks.trying import settled
from adaptzip.methods._vblora_config import Choices, Config, choices_of
from adaptzip.methods._vblora_fit import VbProfile

_GIB = 2**30
_NOISE = 0.02
"""Squared error that coding the bank adds, as a share of what it leaves anyway."""
_LEAST_NOISE = 1e-6
"""And of the energy, where it leaves nothing."""
_PER_BIT = log(4) / 12
"""Squared steps that a bit is worth: what one more for a number quantised at the step would save (D = step^2 / 12)."""
_MIXED = 2
"""Vectors of a mixture where none is asked for."""
_BLOCK_BITS = 32
"""What a module takes besides its codes."""


def build(fleet: Fleet, config: Config, context: FitContext) -> FittedBank:
    """A bank for many adapters; see `BankBuilder.build_bank`."""
    sample = draw(fleet, context.seed)
    if not sample.modules:
        raise RefusedError("every update is zero: there is nothing to fit a bank to", hint="train the adapters first")
    if config.vectors is not None:
        _check_mixtures(config.vectors, config.top_k or _MIXED)
    chosen = _chosen(sample, config, context.device)
    _check_mixtures(chosen.vectors, chosen.top_k)
    shape = Shape(chosen.vectors, chosen.length, chosen.top_k, config.levels)
    bank, found, coded = fit_fleet(fleet, sample, shape, chosen.rank, context.seed, context.device, context.progress)
    step = _step(found, coded, bank)
    outline = BankShape(chosen.rank, chosen.length, chosen.vectors, chosen.top_k, config.levels)
    return FittedBank(bank.cpu(), outline, step, sample.adapters)


def _check_mixtures(vectors: int, top_k: int) -> None:
    if vectors <= top_k:
        raise UsageError(
            f"a bank of {vectors} vectors was asked for mixtures of {top_k}, expected at least {top_k + 1}: one of "
            "them is zero"
        )


def _chosen(sample: Sample, config: Config, device: torch.device) -> Choices:
    """The settings; those left open as a part of the sample decides."""
    wanted = Setting(config.rank, config.length, config.vectors, config.top_k)
    best = settled(sample, wanted, config.levels, config.memory * _GIB, device)
    return choices_of(replace(config, rank=best.rank, length=best.length, vectors=best.vectors, top_k=best.top_k))


def _step(found: Sequence[Group], coded: Sequence[Coded], bank: Tensor) -> float:
    """The step at which quantising the bank adds `_NOISE` of its error."""
    pairs = list(zip(found, coded, strict=True))
    error = sum(float((squared_errors(g, *decoded(g, c, bank)) * g.weight).sum()) for g, c in pairs)
    energy = sum(float((g.energy * g.weight).sum()) for g, _ in pairs)
    exposed = sum(float(one.sum()) for one in exposures(found, coded, bank))
    noise = max(_NOISE * error, _LEAST_NOISE * energy)
    return float(np.float32(sqrt(12 * noise / max(exposed, 1e-30))))


def with_bank(config: Config, shape: BankShape) -> Config:
    """The configuration of an adapter that is coded with a bank; see `BankBuilder.with_bank`."""
    for name, value in (("length", shape.length), ("vectors", shape.vectors), ("top_k", shape.top_k)):
        asked = getattr(config, name)
        if asked is not None and asked != value:
            raise UsageError(f"{name} is {asked}, and the bank's is {value}", hint=f"leave {name} out")
    if config.rank is not None and config.rank > shape.rank:
        raise UsageError(
            f"rank is {config.rank}, and the bank's is {shape.rank}", hint=f"give one up to {shape.rank}, or none"
        )
    rank = config.rank or shape.rank
    return replace(
        config, rank=rank, length=shape.length, vectors=shape.vectors, top_k=shape.top_k, levels=shape.levels
    )


def coded_by(
    bank: Tensor, modules: Mapping[str, LoraFactors], config: Config, context: FitContext
) -> tuple[list[Group], list[Coded]]:
    """All modules in groups, and their codes for a bank that is given."""
    weights = {name: sensitivity.weight for name, sensitivity in context.sensitivities.items()}
    chosen = choices_of(config)
    found = list(groups(modules, dict.fromkeys(modules, chosen.rank), weights, context.device))
    shape = Shape(chosen.vectors, chosen.length, chosen.top_k, config.levels)
    return found, coded_groups(found, bank, shape, config.levels)


def errors_by_rank(own: Group, bank: Tensor, coded: Coded) -> NDArray[np.float64]:
    """Weighted squared error of the first rows of a module's compact codes, for each number of rows from 0."""
    A, B = (rows[0].double() for rows in decoded(own, expanded(coded, own.rank, bank.device), bank))
    # |dW - sum of b_i a_i|^2 by products of rows, of which each number of rows takes the first.
    right, left = (A @ own.V[0].double()) * own.S[0].double(), B @ own.U[0].double()
    along = (left * right).sum(1).cumsum(0)
    across = ((A @ A.T) * (B @ B.T)).cumsum(0).cumsum(1).diagonal()
    energy = own.energy[0]
    errors = torch.cat([energy[None], (energy - 2 * along + across).clamp(min=0)]) * float(own.weight[0])
    return errors.cpu().numpy()


def worth(profile: VbProfile, step: float) -> int:
    """The rows of a module that are worth their bits at a step."""
    ranks = np.arange(len(profile.errors))
    costs = profile.errors + _PER_BIT * step**2 * (ranks * profile.unit_bits + _BLOCK_BITS * (ranks > 0))
    return int(costs.argmin())
