"""The shared vector that is nearest to an adapter, and what it leaves of each module.

With orthonormal rows in A the squared error of a module is that of B against T = dW A^T, and a constant. Each entry of
B is one number of the vector times a sign and the scale, so that the best number is the mean of what T has where it
stands. Rows of random signs are orthonormal but for 1 / sqrt(in).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp2, log2

import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Site
from adaptzip.methods._shared_vector.config import Config, numbers_of
from adaptzip.methods._shared_vector.drawing import directions, places


@dataclass(frozen=True, eq=False)
class Prepared:
    """What spans modules.

    Attributes:
        vector: (1, numbers), float32 on the CPU.
        alive: the modules that it stands in.
        entries: of all their B together, and what they would be without any frame.
    """

    vector: Tensor
    alive: frozenset[str]
    entries: int
    plain_entries: int


@dataclass(frozen=True, eq=False)
class VectorFit:
    """A module.

    Attributes:
        update: dW as factors, scaling included; float64.
        directions: A (rank, in), float64.
        site, config, weight: of the module.
        alive: whether it is kept.
        vector: as it was fitted.
        entries, plain_entries: as in `Prepared`.
    """

    update: tuple[Tensor, Tensor]
    directions: Tensor
    site: Site
    config: Config
    weight: float
    alive: bool
    vector: Tensor
    entries: int
    plain_entries: int


def rank_of(site: Site, config: Config) -> int:
    """Rows of A: directions of the frame, or as many as the options say."""
    return site.frame or config.rank


def entries_of(site: Site, config: Config) -> int:
    """Numbers in B."""
    return site.out * rank_of(site, config)


def placed(vector: Tensor, site: Site, config: Config) -> Tensor:
    """B (out, rank) of a vector (1, numbers); differentiable in it."""
    index, sign = places(config.seed, site.number, entries_of(site, config), numbers_of(config))
    flat = vector.reshape(-1)
    signed = flat[index.to(flat.device)] * (sign.to(flat) * config.scale)
    return signed.reshape(site.out, -1)


def drawn(site: Site, config: Config) -> Tensor:
    """A (rank, in), float32, of a module without a frame."""
    return directions(config.seed, site.number, entries_of(site, config), config.rank, site.width).clone()


def rows_of(name: str, site: Site, config: Config, basis: Basis | None) -> Tensor:
    """A (rank, in) of a module, float64 on the CPU."""
    if site.frame and basis is not None:
        return basis.modules[name].V.T.double().cpu()
    return drawn(site, config).double()


def factors(module: LoraFactors) -> tuple[Tensor, Tensor]:
    """A and B of an update, its scaling in B; float64 on the CPU."""
    return module.A.double().cpu(), module.B.double().cpu() * module.scaling


def best_scale(entries: int, numbers: int) -> float:
    """The power of two nearest to the root of how seldom a number stands, which gives the update the vector's size."""
    return exp2(-round(log2(max(entries / numbers, 1.0)) / 2))


def best_vector(
    modules: Mapping[str, LoraFactors],
    sites: Mapping[str, Site],
    config: Config,
    weights: Mapping[str, float],
    basis: Basis | None,
) -> Tensor:
    """The vector (1, numbers), float32, of the least squared error over some modules, weighted."""
    numbers = numbers_of(config)
    total, uses = torch.zeros(numbers, dtype=torch.float64), torch.zeros(numbers, dtype=torch.float64)
    for name, module in modules.items():
        site, weight = sites[name], weights.get(name, 1.0)
        A, B = factors(module)
        wanted = (B @ (A @ rows_of(name, site, config, basis).T)).reshape(-1)
        index, sign = places(config.seed, site.number, len(wanted), numbers)
        total.index_add_(0, index, weight * sign * wanted)
        uses.index_add_(0, index, torch.full_like(wanted, weight))
    mean = torch.where(uses > 0, total / torch.where(uses > 0, uses, 1.0), 0.0)
    return (mean / config.scale).float().reshape(1, -1)


def energy_of(fitted: VectorFit) -> float:
    """|dW|^2, weighted."""
    A, B = fitted.update
    return fitted.weight * float(((B.T @ B) * (A @ A.T)).sum())


def captured(fitted: VectorFit) -> float:
    """|dW A^T|^2, weighted: what B could keep if every entry were its own."""
    A, B = fitted.update
    return fitted.weight * float((B @ (A @ fitted.directions.T)).square().sum())


def error_of(fitted: VectorFit, vector: Tensor) -> float:
    """|dW - dW'|^2 for a vector, weighted."""
    A, B = fitted.update
    both = torch.cat([A, fitted.directions])
    sides = torch.cat([B, -placed(vector.double().cpu(), fitted.site, fitted.config)], 1)
    return fitted.weight * max(0.0, float(((sides.T @ sides) * (both @ both.T)).sum()))
