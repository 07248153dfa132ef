"""A small core between frozen directions, dW' = U C V^T: what `lora-xs` and `lora-sb` have in common.

U (out, k) and V (in, k) come from a basis that is not stored with the adapter. With orthonormal directions the best
core is C = U^T dW V, and an error in C is the same error in dW, so that one quantiser step is right for all modules.
The directions are sorted by importance; rank r keeps the first r on either side and stores the leading r x r block.

A basis of many adapters may hold their mean update as a core of its own, M. An adapter that has much of it stores what
it differs by: dW' = U (M + C) V^T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.family import BASIS_MEAN, BASIS_U, BASIS_V
from adaptzip.core.method import FitContext, Method
from adaptzip.core.projection import Projection, captured_energy, leading, module_basis, project
from adaptzip.core.rates import BIT_WEIGHT, ROW_BITS, falling
from adaptzip.core.trainable import Trainable
from adaptzip.errors import FormatError, RefusedError, UsageError
from adaptzip.methods._rates import row_costs

SHORTEST_ROW = 48
"""Rows of "C" are at least this wide where the rank allows it, since every row's class costs some bits (measured)."""


@dataclass(frozen=True)
class Config:
    """Options of a core between frozen directions.

    Attributes:
        rank: most directions on either side; None takes all that the basis has.
        min_energy: the least share of |dW|^2 that the basis must capture; 0 takes any.
        mean: whether the core is what the update differs by from the mean that the basis holds; None where there is
            one and less is left of the update then.
    """

    rank: int | None = None
    min_energy: float = 0.5
    mean: bool | None = None


@dataclass(frozen=True, eq=False)
class CoreFit:
    """One update in a basis: its projection, and the core to store in float32 on the device.

    Attributes:
        mean: what the core was taken off, (k, k), or None.
    """

    projection: Projection
    core: Tensor
    mean: Tensor | None = None


@dataclass(frozen=True, eq=False)
class CoreProfile:
    """What is kept of a fitted module.

    Attributes:
        diagonal: squares of the entries C[s][s], float64.
        shells: energy of the other entries C[i][j] with max(i, j) = s, by s; float64.
        outside: |dW|^2 outside the basis.
        by_mean: what the mean takes off |dW|^2 wherever a module is stored at all; 0 without one.
    """

    diagonal: NDArray[np.float64]
    shells: NDArray[np.float64]
    outside: float
    by_mean: float = 0.0

    @property
    def by_rank(self) -> NDArray[np.float64]:
        """|dW|^2 that each unit of rank adds, (k,)."""
        return self.diagonal + self.shells

    @property
    def energy(self) -> float:
        return float(self.by_rank.sum()) + self.outside + self.by_mean

    @property
    def scores(self) -> list[float]:
        """Energy per number that each unit of rank adds, averaged over neighbours until it falls."""
        return falling(self.by_rank, 2 * np.arange(len(self.shells)) + 1)


class LoraCore(Method[Config, CoreFit, CoreProfile, None], Trainable[Config]):
    """The methods; see the module's description."""

    version = 1
    config_type = Config
    roles = ("D", "C")
    degree = 1
    needs_basis = True
    spans_modules = True
    grows = True
    training_options = MappingProxyType({"min_energy": 0.0})
    training_rate = 0.2

    def prepare(self, modules: Mapping[str, LoraFactors], config: Config, context: FitContext) -> tuple[Config, None]:
        """Check that the basis holds enough of the adapter.

        Raises:
            UsageError: if there is no basis, or an option is out of range.
            RefusedError: if the basis lacks a module or the mean, or captures less than `config.min_energy`.
        """
        basis = context.basis
        if basis is None:
            raise UsageError(f"method {self.name!r} needs a basis", hint="give `base=DIR` or `basis=FILE`")
        if config.rank is not None and config.rank < 1:
            raise UsageError(f"rank is {config.rank}, expected at least 1")
        if not 0 <= config.min_energy <= 1:
            raise UsageError(f"min_energy is {config.min_energy:g}, expected a share between 0 and 1")
        cut = replace(basis, modules={name: leading(m, config.rank) for name, m in basis.modules.items()})
        share = captured_energy(modules, cut).overall
        if share < config.min_energy:
            raise RefusedError(
                f"the basis ({_origin(basis)}) captures {100 * share:.2g} % of "
                f"the update's energy, less than {100 * config.min_energy:g} %: a fitted core can't represent this "
                "adapter",
                hint="train the core to do the adapter's job with `adaptzip distill`, or take a basis from adapters: "
                "`adaptzip basis build`",
            )
        if config.mean and not any(module.mean is not None for module in cut.modules.values()):
            raise RefusedError(f"the basis ({_origin(basis)}) holds no mean", hint="leave `mean` out")
        return replace(config, mean=True) if config.mean is None and _mean_pays(modules, cut) else config, None

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Config, prepared: None, context: FitContext
    ) -> dict[str, CoreFit]:
        fits: dict[str, CoreFit] = {}
        for name, module in modules.items():
            basis = module_basis(context.basis, name, module.shape)  # type: ignore[arg-type]
            cut = leading(basis, config.rank)
            found, mean = project(module, cut), cut.mean if config.mean else None
            core = found.core if mean is None else found.core - mean.to(found.core)
            fits[name] = CoreFit(found, core.float(), mean)
        return fits

    def profile(self, fitted: CoreFit) -> CoreProfile:
        found, mean = fitted.projection, fitted.mean
        core, energy = found.core, found.captured
        left = energy
        if mean is not None:
            core, left = core - mean.to(core), found.distance(mean.to(core))
        squares = core.square().cpu().numpy()
        # A rounded basis is not quite orthonormal; the energy is that of the update nevertheless.
        squares *= left / max(squares.sum(), np.finfo(np.float64).tiny)
        corner = squares.cumsum(0).cumsum(1).diagonal()
        diagonal = squares.diagonal().copy()
        shells = np.maximum(np.diff(corner, prepend=0.0) - diagonal, 0.0)
        return CoreProfile(diagonal, shells, found.outside, energy - left)

    def rank(self, profile: CoreProfile, step: float) -> int:
        """The rank at which error and bits together cost least."""
        bits, error = _costs(profile, step)
        gain = profile.by_rank - error - BIT_WEIGHT * step**2 * bits
        gain[:1] += profile.by_mean
        return int(np.concatenate([[0.0], np.cumsum(gain)]).argmax())

    def predict(self, profile: CoreProfile, rank: int, step: float) -> tuple[float, float]:
        bits, error = _costs(profile, step)
        lost = error[:rank].sum() + profile.by_rank[rank:].sum() + profile.outside
        return float(bits[:rank].sum()), float(lost) + (0.0 if rank else profile.by_mean)

    def max_rank(self, site: Site, config: Config) -> int:
        """The larger side: the shorter one's directions may end in zeros."""
        return max(site.out, site.width)

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        """The diagonal in a row of its own, since a basis sorted by importance makes it large, then the rest."""
        diagonal, numbers = TensorSpec("D", 1, rank), rank * (rank - 1)
        rows = _rows(numbers)
        return (diagonal, TensorSpec("C", rows, numbers // rows)) if numbers else (diagonal,)

    def target(self, fitted: CoreFit, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        core = fitted.core[:rank, :rank]
        if role == "D":
            return core.diagonal()[None].contiguous()
        return core.reshape(-1)[_order(rank).to(core.device)].reshape(_rows(rank * (rank - 1)), -1)

    def squared_error(self, fitted: CoreFit, tensors: Mapping[str, Tensor]) -> float:
        core = torch.zeros_like(fitted.core) if fitted.mean is None else fitted.mean.to(fitted.core).clone()
        coded = _core(tensors)
        core[: len(coded), : len(coded)] += coded
        return fitted.projection.outside + fitted.projection.distance(core)

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        """A = V^T and B = U C, or with a mean U (M + C), the product in float64 and rounded once.

        Raises:
            FormatError: if the core is larger than the basis.
        """
        core = _core(tensors)
        rank, size = len(core), tensors[BASIS_U].shape[1]
        if rank > size:
            raise FormatError(f"a core of rank {rank} stands on a basis of {size} directions")
        if config.mean and BASIS_MEAN in tensors:
            rank = size if config.rank is None else min(size, config.rank)
            core = _on_mean(tensors[BASIS_MEAN][:rank, :rank], core)
        B = (tensors[BASIS_U][:, :rank].double() @ core.double()).to(core.dtype)
        return tensors[BASIS_V][:, :rank].T.to(core.dtype).contiguous(), B


def _mean_pays(modules: Mapping[str, LoraFactors], basis: Basis) -> bool:
    """Whether less is left of updates, between the directions of a basis, by what its mean takes off them."""
    gain = 0.0
    for name, module in modules.items():
        mean = basis.modules[name].mean
        if mean is not None:
            found = project(module, basis.modules[name])
            gain += found.captured - found.distance(mean.to(found.core))
    return gain > 0


def _on_mean(mean: Tensor, core: Tensor) -> Tensor:
    """M + C (k, k) of a core that has the first rows and columns only."""
    missing = len(mean) - len(core)
    return mean.to(core) + torch.nn.functional.pad(core, (0, missing, 0, missing))


def _origin(basis: Basis) -> str:
    """What made a basis, for messages."""
    return basis.reference.description or {"base": "of the base weights"}.get(basis.reference.source, "in the file")


def _core(tensors: Mapping[str, Tensor]) -> Tensor:
    """The core (r, r) from its stored diagonal and the rest."""
    core = torch.diag(tensors["D"].reshape(-1))
    rank = len(core)
    if rank == 1:
        return core
    rest = tensors["C"].reshape(-1)
    place = _order(rank).to(rest.device)
    return core + core.new_zeros(rank * rank).index_put((place,), rest).reshape(rank, rank)


@cache
def _order(rank: int) -> Tensor:
    """Places off the diagonal of a core, row by row, in the order in which they are stored: shell by shell."""
    i, j = np.divmod(np.arange(rank * rank), rank)
    order = np.lexsort((j, i, np.maximum(i, j)))
    return torch.from_numpy(order[(i != j)[order]])


@cache
def _rows(numbers: int) -> int:
    """The most rows of equal width that leave at least `SHORTEST_ROW` numbers in each; at least one."""
    return next((d for d in range(max(1, numbers // SHORTEST_ROW), 1, -1) if numbers % d == 0), 1)


def _costs(profile: CoreProfile, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected bits and squared error of what each unit of rank adds, both (k,)."""
    sizes = 2 * np.arange(len(profile.shells))
    bits, share = row_costs(np.sqrt(profile.diagonal) / step)
    error = profile.diagonal * share
    rate, share = row_costs(np.sqrt(profile.shells / np.maximum(sizes, 1)) / step)
    bits += sizes * (rate + ROW_BITS / max(SHORTEST_ROW, len(sizes)))
    bits[:1] += ROW_BITS
    return bits, error + profile.shells * share
