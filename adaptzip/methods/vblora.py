"""`vblora`: pieces of A and B as convex mixtures of a few vectors of one bank (VB-LoRA, Li, Han and Ji 2024).

The bank is shared by all modules and both factors. Here it is fitted to a finished adapter (`adaptzip.methods._banks`),
or to many of them (`adaptzip.methods._vblora_bank`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import exp2, log2, prod

import numpy as np
import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.bank import BankShape
from adaptzip.core.bank_builder import BankBuilder, FittedBank, Fleet
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.method import FitContext, Method
from adaptzip.core.rates import ROW_BITS
from adaptzip.core.survey import Allowance, Candidate, Survey
from adaptzip.core.trainable import Trainable
from adaptzip.errors import CheckFailedError
from adaptzip.methods._banks.codes import decode, piece_count
from adaptzip.methods._banks.factors import Coded, Group, groups
from adaptzip.methods._banks.fit import Shape, fit_bank
from adaptzip.methods._banks.ranks import survey, worthwhile
from adaptzip.methods._banks.refining import exposures
from adaptzip.methods._banks.search import Search, Setting, piece_bits, search
from adaptzip.methods._banks.selecting import logits_of, mixed, selected
from adaptzip.methods._banks.single import (
    coded_error,
    compact,
    expanded,
    no_codes,
    single,
    stored_weights,
)
from adaptzip.methods._rates import row_costs
from adaptzip.methods._vblora_bank import build, coded_by, errors_by_rank, with_bank, worth
from adaptzip.methods._vblora_config import Config, choices_of
from adaptzip.methods._vblora_fit import Prepared, VbFit, VbProfile, coded_rank, codes_of, recoded

_GIB = 2**30


class Vblora(Method[Config, VbFit, VbProfile, Prepared], Trainable[Config], BankBuilder[Config]):
    """The method; see the module's description."""

    name = "vblora"
    version = 1
    summary = "pieces of A and B as mixtures of a few vectors of one bank, loadable by PEFT as VB-LoRA"
    paper = "VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks"
    config_type = Config
    roles = ("A.indices", "A.weights", "B.indices", "B.weights")
    shared_roles = ("bank",)
    gained = False
    degree = 2
    spans_modules = True
    fixed_ranks = True
    soft_roles = ("A.logits", "B.logits")

    def candidates(self, survey: Survey, config: Config, allowance: Allowance) -> Sequence[Candidate[Config]]:
        """The settings with the least predicted error within the allowance, or the smallest that reach an error."""
        wanted = Setting(config.rank, config.length, config.vectors, config.top_k)
        limits = Search(
            allowance.parameters, allowance.bytes, allowance.error, config.memory * _GIB, config.levels, config.uniform
        )
        return [
            Candidate(
                replace(config, rank=s.rank, length=s.length, vectors=s.vectors, top_k=s.top_k, floor=s.floor),
                bytes=s.bytes,
                parameters=s.parameters,
                error=s.error,
            )
            for s in search(survey, wanted, config.floor, limits)
        ]

    def prepare(
        self, modules: Mapping[str, LoraFactors], config: Config, context: FitContext
    ) -> tuple[Config, Prepared]:
        """Fit the bank to all modules, or all modules to the bank that is given."""
        if context.bank is not None:
            bank = context.bank.vectors
            return _prepared(config, *coded_by(bank, modules, config, context), bank, context)
        weights = {name: sensitivity.weight for name, sensitivity in context.sensitivities.items()}
        if None in (config.rank, config.length, config.vectors, config.top_k):
            config = self.candidates(survey(modules, context.device), config, Allowance())[0].config
        chosen = choices_of(config)
        ranks = _ranks(modules, config, context)
        found = list(groups(modules, ranks, weights, context.device))
        if not found:
            raise CheckFailedError("no module keeps a rank of at least 1", hint="allow higher ranks")
        shape = Shape(chosen.vectors, chosen.length, chosen.top_k, config.levels)
        fit = fit_bank(found, shape, context.seed, context.progress)
        return _prepared(config, found, fit.coded, fit.bank, context)

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Config, prepared: Prepared, context: FitContext
    ) -> dict[str, VbFit]:
        weights = {name: sensitivity.weight for name, sensitivity in context.sensitivities.items()}
        spread = float(prepared.bank.square().mean())
        bank = prepared.bank / config.scale
        nothing = no_codes(choices_of(config).top_k)
        fits: dict[str, VbFit] = {}
        for group in groups(modules, dict.fromkeys(modules, 1), weights, context.device):
            for i, name in enumerate(group.names):
                coded = prepared.coded.get(name, nothing)
                own = single(group, i, len(coded.A.indices))
                if prepared.given:
                    errors = errors_by_rank(own, bank, coded)
                else:
                    errors = np.array([coded_error(own, bank, expanded(coded, own.rank, bank.device))])
                exposure = prepared.exposures.get(name, 0.0)
                fits[name] = VbFit(own, coded, config, errors, exposure, spread, prepared.searched)
                fits[name].known = {} if prepared.outside else None
        return fits

    def profile(self, fitted: VbFit) -> VbProfile:
        group, config = fitted.group, choices_of(fitted.config)
        weight = float(group.weight[0])
        squares = np.zeros(group.rank)
        own = group.S[0].double().square().cpu().numpy()[: group.rank] * weight
        squares[: len(own)] = own
        pieces = piece_count(group.U.shape[1], config.length) + piece_count(group.V.shape[1], config.length)
        return VbProfile(
            squares,
            float(group.energy[0]) * weight,
            fitted.errors,
            pieces * piece_bits(config.vectors, config.top_k, fitted.config.levels),
            pieces * (2 * config.top_k - 1),
            fitted.exposure,
            fitted.spread,
        )

    def rank(self, profile: VbProfile, step: float) -> int:
        """All of it where the bank was fitted to all; what is worth its bits where it was given."""
        return worth(profile, step) if len(profile.errors) > 1 else len(profile.singular)

    def predict(self, profile: VbProfile, rank: int, step: float) -> tuple[float, float]:
        if rank == 0:
            return 0.0, profile.energy
        noise = profile.exposure * profile.spread * _relative_noise(profile.spread, step)
        error = profile.error(rank) + noise
        return rank * profile.unit_bits, float(min(error, profile.energy))

    def max_rank(self, site: Site, config: Config) -> int:
        """The config's: where it is above min(out, in), further rows correct what the first leave."""
        return choices_of(config).rank

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        chosen = choices_of(config)
        specs = []
        for side, width in (("A", site.width), ("B", site.out)):
            rows, k = rank * piece_count(width, chosen.length), chosen.top_k
            specs += [
                TensorSpec(f"{side}.indices", rows, k, "index", bound=chosen.vectors),
                TensorSpec(f"{side}.weights", rows, k - 1, "simplex", bound=config.levels),
            ]
        return tuple(specs)

    def shared_layout(self, config: Config) -> tuple[TensorSpec, ...]:
        chosen = choices_of(config)
        return (TensorSpec("bank", chosen.vectors, chosen.length),)

    def shared_target(self, prepared: Prepared, role: str, done: Mapping[str, Tensor]) -> Tensor:
        return prepared.bank

    def predict_shared(self, prepared: Prepared, config: Config, step: float) -> float:
        if prepared.outside:
            return 0.0
        rows = prepared.bank.double().square().mean(1).sqrt().cpu().numpy()
        rate, _ = row_costs(rows / step)
        return float((prepared.bank.shape[1] * rate + ROW_BITS).sum())

    def target(self, fitted: VbFit, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        """Codes for the bank as it will be decoded: A's against B as it was fitted, then B's against the coded A."""
        config = fitted.config
        if role.endswith("weights") and choices_of(config).top_k == 1:
            return torch.zeros((len(done[role.replace("weights", "indices")]), 0), dtype=torch.int64)
        side = role[0]
        if role.endswith("indices"):
            codes = recoded(fitted, side, rank, done)
            if codes.k > 1:
                fitted.chosen[side] = done["bank"], codes
            return codes.indices.flatten(0, -2)
        known = fitted.chosen.pop(side, None)
        if known is not None and known[0] is done["bank"] and known[1].indices.shape[-3] == rank:
            return stored_weights(known[1], config.levels)
        return stored_weights(recoded(fitted, side, rank, done), config.levels)

    def squared_error(self, fitted: VbFit, tensors: Mapping[str, Tensor]) -> float:
        rank = coded_rank(tensors, fitted.group.V.shape[1], fitted.config)
        coded = Coded(codes_of(tensors, "A", rank), codes_of(tensors, "B", rank))
        return coded_error(fitted.group, tensors["bank"] / fitted.config.scale, coded)

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        rank, bank = coded_rank(tensors, site.width, config), tensors["bank"] / config.scale
        A = decode(bank, codes_of(tensors, "A", rank), site.width)[0]
        B = decode(bank, codes_of(tensors, "B", rank), site.out)[0]
        return A, B.mT

    def build_bank(self, fleet: Fleet, config: Config, context: FitContext) -> FittedBank:
        return build(fleet, config, context)

    def with_bank(self, config: Config, shape: BankShape) -> Config:
        return with_bank(config, shape)

    def soften(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> dict[str, Tensor]:
        bank = tensors["bank"] / config.scale
        return {
            f"{side}.logits": logits_of(tensors[f"{side}.indices"], tensors[f"{side}.weights"], bank, config.levels)
            for side in "AB"
        }

    def relaxed(self, soft: Mapping[str, Tensor], site: Site, config: Config) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for side in "AB":
            indices, weights = mixed(soft[f"{side}.logits"], choices_of(config).top_k)
            found |= {f"{side}.indices": indices, f"{side}.weights": weights}
        return found

    def harden(self, soft: Mapping[str, Tensor], site: Site, config: Config) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for side in "AB":
            indices, weights = selected(soft[f"{side}.logits"], choices_of(config).top_k, config.levels)
            found |= {f"{side}.indices": indices, f"{side}.weights": weights}
        return found


def _prepared(
    config: Config, found: Sequence[Group], coded: Sequence[Coded], bank: Tensor, context: FitContext
) -> tuple[Config, Prepared]:
    """A bank and its codes as they are coded; in a file of its own the bank stays as it is."""
    small = {name: compact(c, i) for g, c in zip(found, coded, strict=True) for i, name in enumerate(g.names)}
    if context.basis is not None:
        return config, Prepared(bank, small, {}, given=True, outside=True)
    exposed = exposures(found, coded, bank)
    # A mean exposure of 1 over the stored numbers: their squared errors then add up to that of the update.
    scale = exp2(round(log2(max(float(sum(e.sum() for e in exposed)) / prod(bank.shape), 1e-60)) / 2))
    shares = {
        name: float(exposure[i]) / scale**2
        for group, exposure in zip(found, exposed, strict=True)
        for i, name in enumerate(group.names)
    }
    return replace(config, scale=scale), Prepared(bank * scale, small, shares, given=context.bank is not None)


def _ranks(modules: Mapping[str, LoraFactors], config: Config, context: FitContext) -> dict[str, int]:
    """The rank of each module: the config's, or with a floor as many as are worth it, within the context's."""
    most = choices_of(config).rank
    ranks = dict.fromkeys(modules, most)
    if not config.uniform and config.floor is not None:
        ranks = worthwhile(survey(modules, context.device), most, config.floor)
    if context.ranks is not None:
        ranks = {name: min(rank, context.ranks.get(name, 0)) for name, rank in ranks.items()}
    return ranks


@lru_cache(maxsize=256)
def _relative_noise(spread: float, step: float) -> float:
    """Relative squared error of the bank at a step; all modules ask for the same."""
    return float(row_costs(np.array([spread**0.5 / step]))[1][0])


METHOD = Vblora()
