"""The part of an update that a basis can hold: U C V^T with the best core C, in float64 and without cancellation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis, ModuleBasis
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import RefusedError


@dataclass(frozen=True, eq=False)
class Projection:
    """One update against one basis.

    Attributes:
        core: C (k, k), float64, of least |dW - U C V^T|: U^T dW V where the basis is orthonormal.
        gram_u, gram_v: U^T U and V^T V, (k, k), float64: the identity but for the basis's rounding.
        outside: |dW - U C V^T|^2.
    """

    core: Tensor
    gram_u: Tensor
    gram_v: Tensor
    outside: float

    def distance(self, core: Tensor) -> float:
        """|U (C - C') V^T|^2 for another core of the same shape."""
        difference = self.core - core.double()
        return float(((self.gram_u @ difference @ self.gram_v) * difference).sum())

    @property
    def captured(self) -> float:
        """|U C V^T|^2."""
        return self.distance(torch.zeros_like(self.core))

    @property
    def energy(self) -> float:
        """|dW|^2."""
        return self.captured + self.outside


@dataclass(frozen=True)
class CapturedEnergy:
    """How much of an adapter's |dW|^2 lies within a basis, as shares of it.

    Attributes:
        missed: what lies outside, of all modules together; 0 where every update is zero.
        modules: what lies within by module, zero updates left out; 0 where the basis lacks the module.
    """

    missed: float
    modules: Mapping[str, float]

    @property
    def overall(self) -> float:
        """What lies within, of all modules together."""
        return 1.0 - self.missed

    @property
    def error(self) -> float:
        """The least relative error |dW - dW'| / |dW| of cores between this basis."""
        return sqrt(self.missed)


def project(module: LoraFactors, basis: ModuleBasis) -> Projection:
    """The best core of one update in a basis (least squares; Eckart and Young's closed form where orthonormal).

    What lies outside is summed from two parts that are orthogonal to each other, dW - P dW and P dW (1 - Q) with the
    projections P on U and Q on V, so that a tiny remainder keeps its digits.
    """
    device = module.A.device
    A, B = module.A.double(), module.B.double() * module.scaling
    U, V = (side.to(device, torch.float64) for side in (basis.U, basis.V))
    gram_u, gram_v = U.T @ U, V.T @ V
    left = _solve(gram_u, U.T @ B)
    right = _solve(gram_v, V.T @ A.T)
    rest_b = B - U @ left
    rest_a = A.T - V @ right
    outside = _product_energy(rest_b, A.T) + _product_energy(U @ left, rest_a)
    return Projection(left @ right.T, gram_u, gram_v, outside)


@on_one_core()
def captured_energy(modules: Mapping[str, LoraFactors], basis: Basis) -> CapturedEnergy:
    """The share of every update's energy, and of all together, that a basis captures.

    Raises:
        RefusedError: if the basis was made for another shape of a module.
    """

    def projected(name: str) -> Projection:
        module = modules[name]
        return project(module, module_basis(basis, name, module.shape) if name in basis.modules else _nothing(module))

    total = missed = 0.0
    shares: dict[str, float] = {}
    for name, found in zip(modules, parallel_map(projected, modules), strict=True):
        if found.energy > 0:
            total, missed = total + found.energy, missed + found.outside
            shares[name] = found.captured / found.energy
    return CapturedEnergy(missed / total if total else 0.0, shares)


@on_one_core()
def error_of_mean(modules: Mapping[str, LoraFactors], basis: Basis) -> float | None:
    """The relative error where the mean that a basis holds stands for an adapter; None where it holds none.

    Raises:
        RefusedError: as `captured_energy`.
    """
    if all(module.mean is None for module in basis.modules.values()):
        return None
    total = missed = 0.0
    for name, module in modules.items():
        own = module_basis(basis, name, module.shape) if name in basis.modules else _nothing(module)
        found = project(module, own)
        mean = torch.zeros_like(found.core) if own.mean is None else own.mean.to(found.core)
        total, missed = total + found.energy, missed + found.outside + found.distance(mean)
    return sqrt(missed / total) if total else 0.0


def module_basis(basis: Basis, name: str, shape: tuple[int, int]) -> ModuleBasis:
    """The directions of the module `name`, whose update is (out, in) = `shape`.

    Raises:
        RefusedError: if the basis does not have them.
    """
    if name not in basis.modules:
        raise RefusedError(
            f"module {name} is not in the basis ({basis.reference.description or 'of unknown origin'})",
            hint="build a basis from adapters that change the same modules: adaptzip basis build",
        )
    found = basis.modules[name]
    there = (found.U.shape[0], found.V.shape[0])
    if there != shape:
        raise RefusedError(
            f"module {name} is {list(shape)}, but the basis was made for {list(there)}",
            hint="use a basis of the same base model",
        )
    return found


def leading(basis: ModuleBasis, size: int | None) -> ModuleBasis:
    """The first `size` directions on both sides; all of them for None."""
    return basis if size is None or size >= basis.size else basis.leading(size)


def _nothing(module: LoraFactors) -> ModuleBasis:
    """No directions."""
    out, width = module.shape
    return ModuleBasis(torch.zeros(out, 0), torch.zeros(width, 0))


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """gram^-1 @ right, where zero directions of the basis get zero."""
    zero = gram.diagonal() == 0
    filled: Tensor = torch.linalg.solve(gram + torch.diag(zero.to(gram)), right)
    return filled


def _product_energy(left: Tensor, right: Tensor) -> float:
    """|left @ right^T|^2 for (m, r) and (n, r)."""
    return max(0.0, float(((left.T @ left) * (right.T @ right)).sum()))
