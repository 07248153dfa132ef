"""A method of another package, the whole of it in this file: singular components, each coded as one row (u, v)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.method import FitContext, Method
from adaptzip.errors import UsageError


@dataclass(frozen=True)
class Config:
    """Options of `sixth`.

    Attributes:
        keep: the share of an update's components that may be kept.
    """

    keep: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UsageError(f"keep {self.keep} is not in (0, 1]")


@dataclass(frozen=True, eq=False)
class SixthFit:
    """An update U diag(S) Vt, and the share of its components that may be kept."""

    U: Tensor
    S: Tensor
    Vt: Tensor
    keep: float


@dataclass(frozen=True, eq=False)
class SixthProfile:
    """Singular values, falling, the numbers in a row, and how many rows there may be."""

    singular: np.ndarray
    numbers: int
    most: int

    @property
    def energy(self) -> float:
        return float(np.square(self.singular).sum())

    @property
    def scores(self) -> list[float]:
        return [float(value) / self.numbers for value in np.square(self.singular[: self.most])]


class Sixth(Method[Config, SixthFit, SixthProfile, None]):
    """The method; see the module's description."""

    name = "sixth"
    version = 1
    summary = "singular components, each in one row"
    paper = "none"
    config_type = Config
    roles = ("rows",)

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        return (TensorSpec("rows", rank, site.out + site.width),)

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Config, prepared: None, context: FitContext
    ) -> dict[str, SixthFit]:
        return {name: SixthFit(*module.svd(), config.keep) for name, module in modules.items()}

    def profile(self, fitted: SixthFit) -> SixthProfile:
        numbers = len(fitted.U) + fitted.Vt.shape[1]
        return SixthProfile(fitted.S.double().cpu().numpy(), numbers, ceil(fitted.keep * len(fitted.S)))

    def rank(self, profile: SixthProfile, step: float) -> int:
        return int((profile.singular[: profile.most] > step).sum())

    def predict(self, profile: SixthProfile, rank: int, step: float) -> tuple[float, float]:
        values, noise = profile.singular, profile.numbers * step**2 / 8
        bits = 0.5 * profile.numbers * np.log2(1 + values[:rank] / noise) + 10
        kept = np.minimum(2 * values[:rank] * noise, np.square(values[:rank]))
        return float(bits.sum()), float(kept.sum() + np.square(values[rank:]).sum())

    def target(self, fitted: SixthFit, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        root = fitted.S[:rank, None].sqrt()
        return torch.cat([fitted.U.T[:rank] * root, fitted.Vt[:rank] * root], 1)

    def squared_error(self, fitted: SixthFit, tensors: Mapping[str, Tensor]) -> float:
        site = Site(len(fitted.U), fitted.Vt.shape[1])
        A, B = self.reconstruct(tensors, site, Config(fitted.keep))
        delta = (fitted.U * fitted.S).double() @ fitted.Vt.double()
        return float((delta - B.double() @ A.double()).square().sum())

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        rows = tensors["rows"]
        return rows[:, site.out :], rows[:, : site.out].T


METHOD = Sixth()
