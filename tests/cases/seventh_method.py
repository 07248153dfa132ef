"""A method that uses every hook of the protocol: a core in a basis, whose rows are mixtures of shared ones and a rest.

dW' = U C V^T. Row i of C is w * p[a] + (1 - w) * p[b] + rest[i], with the patterns p shared by all modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import ModuleBasis
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.family import BASIS_U, BASIS_V
from adaptzip.core.method import FitContext, Method
from adaptzip.core.survey import Allowance, Candidate, Survey
from adaptzip.errors import CheckFailedError

LEVELS = 16
"""Weights are multiples of 1 / LEVELS."""


@dataclass(frozen=True)
class Config:
    """Options of `seventh`.

    Attributes:
        patterns: how many rows are shared; None tries four and two.
        width: numbers in a row, set by the fit.
    """

    patterns: int | None = None
    width: int | None = None


@dataclass(frozen=True, eq=False)
class SeventhFit:
    """An update, its core (width, width), and the squared error of the core as it is."""

    delta: Tensor
    core: Tensor
    outside: float
    config: Config


@dataclass(frozen=True, eq=False)
class SeventhProfile:
    """Energy of each row of the core, of the whole update, and of what no core holds, and the number of patterns."""

    rows: np.ndarray
    energy: float
    outside: float
    patterns: int

    @property
    def scores(self) -> list[float]:
        return [float(value) / (len(self.rows) + 3) for value in np.minimum.accumulate(self.rows)]


class Seventh(Method[Config, SeventhFit, SeventhProfile, Tensor]):
    """The method; see the module's description."""

    name = "seventh"
    version = 1
    summary = "rows of a core in a basis, as mixtures of shared rows"
    paper = "none"
    config_type = Config
    roles = ("pick", "mix", "rest")
    shared_roles = ("patterns",)
    needs_basis = True
    spans_modules = True
    default_basis = "update"

    def candidates(self, survey: Survey, config: Config, allowance: Allowance) -> Sequence[Candidate[Config]]:
        if config.patterns is not None:
            return (Candidate(config),)
        most = allowance.parameters
        fitting = [count for count in (4, 2) if most is None or count < most]
        if not fitting:
            raise CheckFailedError(f"{most} parameters leave no room for the shared rows", hint="allow more")
        return tuple(Candidate(replace(config, patterns=count)) for count in fitting)

    def prepare(self, modules: Mapping[str, LoraFactors], config: Config, context: FitContext) -> tuple[Config, Tensor]:
        """The strongest rows of all cores, after a row of zeros."""
        basis = context.basis
        assert basis is not None
        width = max(module.size for module in basis.modules.values())
        patterns = config.patterns or 4
        cores = [_core(module, basis.modules[name], width) for name, module in sorted(modules.items())]
        rows = torch.cat([torch.zeros(patterns, width), *cores])
        strongest = rows.square().sum(1).argsort(descending=True, stable=True)[: patterns - 1]
        if context.progress is not None:
            context.progress(1.0)
        return replace(config, patterns=patterns, width=width), torch.cat([torch.zeros(1, width), rows[strongest]])

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Config, prepared: Tensor, context: FitContext
    ) -> dict[str, SeventhFit]:
        assert context.basis is not None
        assert config.width is not None
        fits = {}
        for name, module in modules.items():
            basis, delta = context.basis.modules[name], module.delta()
            core = _core(module, basis, config.width)
            rest = delta.double() - basis.U.double() @ core[: basis.size, : basis.size].double() @ basis.V.double().T
            fits[name] = SeventhFit(delta, core, float(rest.square().sum()), config)
        return fits

    def profile(self, fitted: SeventhFit) -> SeventhProfile:
        energy = float(fitted.delta.double().square().sum())
        rows = fitted.core.double().square().sum(1).numpy()
        return SeventhProfile(rows, energy, fitted.outside, fitted.config.patterns or 0)

    def rank(self, profile: SeventhProfile, step: float) -> int:
        """Up to the last row that is worth its bits."""
        worth = np.flatnonzero(profile.rows > step**2 * (4 + 0.3 * len(profile.rows)))
        return int(worth[-1]) + 1 if len(worth) else 0

    def predict(self, profile: SeventhProfile, rank: int, step: float) -> tuple[float, float]:
        width = len(profile.rows)
        bits = 2 * log2(profile.patterns) + log2(LEVELS // 2 + 1) + 8 + width * _rates(profile.rows[:rank], width, step)
        error = np.minimum(profile.rows[:rank], width * step**2 / 12)
        return float(bits.sum()), float(profile.outside + profile.rows[rank:].sum() + error.sum())

    def max_rank(self, site: Site, config: Config) -> int:
        return config.width or 0

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("pick", rank, 2, "index", bound=config.patterns or 0),
            TensorSpec("mix", rank, 1, "simplex", bound=LEVELS),
            TensorSpec("rest", rank, config.width or 0),
        )

    def shared_layout(self, config: Config) -> tuple[TensorSpec, ...]:
        return (TensorSpec("patterns", config.patterns or 0, config.width or 0),)

    def shared_target(self, prepared: Tensor, role: str, done: Mapping[str, Tensor]) -> Tensor:
        return prepared

    def predict_shared(self, prepared: Tensor, config: Config, step: float) -> float:
        rows = prepared.double().square().sum(1).numpy()
        return float((8 + prepared.shape[1] * _rates(rows, prepared.shape[1], step)).sum())

    def target(self, fitted: SeventhFit, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        core, patterns = fitted.core[:rank], done["patterns"]
        if role == "rest":
            return core - _mixture(done)
        if role == "pick":
            return torch.cdist(core, patterns).topk(2, largest=False).indices.flip(1)
        near, far = patterns[done["pick"][:, 1]], patterns[done["pick"][:, 0]]
        way = far - near
        share = ((core - near) * way).sum(1) / way.square().sum(1).clamp(min=1e-30)
        return (share.clamp(0, 0.5) * LEVELS).round().long()[:, None]

    def squared_error(self, fitted: SeventhFit, tensors: Mapping[str, Tensor]) -> float:
        A, B = self.reconstruct(tensors, Site(*fitted.delta.shape), fitted.config)
        return float((fitted.delta.double() - B.double() @ A.double()).square().sum())

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        rest = tensors["rest"]
        core = _mixture(tensors) + rest
        size = tensors[BASIS_U].shape[1]
        A = (core[:size, :size].double() @ tensors[BASIS_V].T.double()).to(rest.dtype)
        return A, tensors[BASIS_U][:, : len(A)].to(rest.dtype)


def _core(module: LoraFactors, basis: ModuleBasis, width: int) -> Tensor:
    """The best core, with zeros where the basis has no direction."""
    core = torch.linalg.pinv(basis.U.double()) @ module.delta().double() @ torch.linalg.pinv(basis.V.double()).T
    padded = torch.zeros(width, width)
    padded[: basis.size, : basis.size] = core.float()
    return padded


def _mixture(tensors: Mapping[str, Tensor]) -> Tensor:
    far, near = tensors["patterns"][tensors["pick"]].unbind(1)
    return tensors["mix"] * far + (1 - tensors["mix"]) * near


def _rates(energies: np.ndarray, width: int, step: float) -> Any:
    """Bits for each number of rows of given energies."""
    return 0.5 * np.log2(1 + energies / width / (step**2 / 12))


METHOD = Seventh()
