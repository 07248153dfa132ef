"""`unilora`: one vector for the whole adapter, whose numbers stand at seeded places in the B of every module.

Uni-LoRA (Li et al. 2025) stores one vector and a seed, and has its numbers in all A and B. Here A is made again: it is
the module's frame, directions that its A began with, where that is known, and random signs elsewhere. The update is
linear in the vector then, so that the best one is a projection and training may begin near zero
(docs/decisions/0015-unilora.md).

A vector of a thousand numbers keeps next to nothing of what an adapter's weights are. What it can do is act like one,
once it is trained to: this method is for `distill`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.family import BASIS_V
from adaptzip.core.method import FitContext, Method
from adaptzip.core.rates import BIT_WEIGHT, ROW_BITS
from adaptzip.core.survey import Allowance, Candidate, Survey
from adaptzip.core.trainable import Trainable
from adaptzip.errors import CheckFailedError
from adaptzip.methods._rates import row_costs
from adaptzip.methods._shared_vector.config import Config, numbers_of
from adaptzip.methods._shared_vector.drawing import places
from adaptzip.methods._shared_vector.fitting import (
    Prepared,
    VectorFit,
    best_scale,
    best_vector,
    captured,
    drawn,
    energy_of,
    entries_of,
    error_of,
    factors,
    placed,
    rank_of,
    rows_of,
)

_BITS = 2.5
"""What a number takes, about, where their count follows from a size (docs/decisions/0015-unilora.md)."""
_FEWEST = 64
"""Numbers that are proposed however small the size: fewer leave nothing that could be seen."""
_MODULE_BITS = 8.0
"""What is told of a module: next to nothing in a group, three bytes alone."""


@dataclass(frozen=True)
class VectorProfile:
    """Summary of a module.

    Attributes:
        energy: weighted |dW|^2.
        error: weighted squared error with the vector as it was fitted.
        exposure: squared error that a squared error of 1 in every number of the vector makes.
        spread: mean square of the vector's numbers.
        framed: squared error that its frame is expected to save.
        alive: whether it is kept.
    """

    energy: float
    error: float
    exposure: float
    spread: float
    framed: float
    alive: bool

    @property
    def scores(self) -> list[float]:
        return [max(0.0, self.energy - self.error) if self.alive else 0.0]


class Unilora(Method[Config, VectorFit, VectorProfile, Prepared], Trainable[Config]):
    """The method; see the module's description."""

    name = "unilora"
    version = 1
    summary = "one vector at seeded places of all modules, for distilling to less than a kilobyte"
    paper = "Uni-LoRA: One Vector is All You Need"
    config_type = Config
    roles = ()
    shared_roles = ("theta",)
    takes_frame = True
    gained = False
    spans_modules = True
    fixed_ranks = True
    fits_little = True
    training_rate = 0.06

    def candidates(self, survey: Survey, config: Config, allowance: Allowance) -> Sequence[Candidate[Config]]:
        """As many numbers as the allowance has room for; without one, as many as there are entries."""
        numbers, most = config.numbers, allowance.parameters
        if numbers is None and most is not None:
            numbers = most
        elif numbers is None and allowance.bytes is not None:
            numbers = max(_FEWEST, int(8 * allowance.bytes / _BITS))
        if numbers is not None and most is not None and not 0 < numbers <= most:
            raise CheckFailedError(
                f"these settings store {numbers} numbers, more than the {most} allowed",
                hint="leave numbers open, or allow more parameters",
            )
        return [Candidate(replace(config, numbers=numbers))]

    def prepare(
        self, modules: Mapping[str, LoraFactors], config: Config, context: FitContext
    ) -> tuple[Config, Prepared]:
        """Fit the vector to all modules."""
        ranks, sites = context.ranks, context.sites
        alive = {n: module for n, module in modules.items() if ranks is None or ranks.get(n, 0) > 0}
        if not alive:
            raise CheckFailedError("no module keeps a rank of at least 1", hint="allow higher ranks")
        entries = sum(entries_of(sites[name], config) for name in alive)
        plain = sum(entries_of(replace(sites[name], frame=0), config) for name in alive)
        numbers = min(config.numbers or entries, entries)
        scale, seed = best_scale(entries, numbers), config.seed or context.seed
        config = replace(config, numbers=numbers, scale=scale, seed=seed)
        weights = {name: sensitivity.weight for name, sensitivity in context.sensitivities.items()}
        vector = best_vector(alive, sites, config, weights, context.basis)
        return config, Prepared(vector, frozenset(alive), entries, plain)

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Config, prepared: Prepared, context: FitContext
    ) -> dict[str, VectorFit]:
        found = {}
        for name, module in modules.items():
            site, sensitivity = context.sites[name], context.sensitivities.get(name)
            found[name] = VectorFit(
                factors(module),
                rows_of(name, site, config, context.basis),
                site,
                config,
                1.0 if sensitivity is None else sensitivity.weight,
                name in prepared.alive,
                prepared.vector,
                prepared.entries,
                prepared.plain_entries,
            )
        return found

    def profile(self, fitted: VectorFit) -> VectorProfile:
        config, site, energy = fitted.config, fitted.site, energy_of(fitted)
        numbers = numbers_of(config)
        saved = 0.0
        if site.frame:
            # Of what A captures a vector keeps as much as it has numbers for each entry.
            chance = energy * min(1.0, config.rank / site.width)
            saved = captured(fitted) * numbers / fitted.entries - chance * min(1.0, numbers / fitted.plain_entries)
        return VectorProfile(
            energy,
            error_of(fitted, fitted.vector),
            fitted.weight * entries_of(site, config) * config.scale**2,
            float(fitted.vector.double().square().mean()),
            saved,
            fitted.alive,
        )

    def rank(self, profile: VectorProfile, step: float) -> int:
        """All modules that the vector was fitted to."""
        return int(profile.alive)

    def predict(self, profile: VectorProfile, rank: int, step: float) -> tuple[float, float]:
        if rank == 0:
            return 0.0, profile.energy
        _, noise = row_costs(np.array([profile.spread**0.5 / step]))
        return _MODULE_BITS, profile.error + profile.exposure * profile.spread * min(1.0, float(noise[0]))

    def frame_gain(self, profile: VectorProfile, step: float, most: int | None = None) -> float:
        return profile.framed / (BIT_WEIGHT * step**2)

    def max_rank(self, site: Site, config: Config) -> int:
        """1: what a rank says of a module is whether it is there."""
        return 1

    def factor_rank(self, site: Site, rank: int, config: Config) -> int:
        return rank * rank_of(site, config)

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        """None: all numbers are shared."""
        return ()

    def shared_layout(self, config: Config) -> tuple[TensorSpec, ...]:
        return (TensorSpec("theta", 1, numbers_of(config)),)

    def shared_target(self, prepared: Prepared, role: str, done: Mapping[str, Tensor]) -> Tensor:
        return prepared.vector

    def predict_shared(self, prepared: Prepared, config: Config, step: float) -> float:
        rate, _ = row_costs(np.array([float(prepared.vector.double().square().mean()) ** 0.5 / step]))
        return float(prepared.vector.numel() * rate[0] + ROW_BITS)

    def target(self, fitted: VectorFit, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError(f"a module of method {self.name!r} stores nothing, and no {role!r}")

    def squared_error(self, fitted: VectorFit, tensors: Mapping[str, Tensor]) -> float:
        return error_of(fitted, tensors["theta"])

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        theta = tensors["theta"]
        A = tensors[BASIS_V].T if site.frame else drawn(site, config).to(theta.device)
        return A, placed(theta, site, config)

    def native(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> Mapping[str, Tensor]:
        """With `B.places` and `B.scales`, (out, rank): where in the vector B's numbers stand, and their factors."""
        index, sign = places(config.seed, site.number, entries_of(site, config), numbers_of(config))
        shape = site.out, rank_of(site, config)
        return {**tensors, "B.places": index.reshape(shape), "B.scales": (sign * config.scale).reshape(shape)}


METHOD = Unilora()
