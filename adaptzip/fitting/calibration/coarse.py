"""Coarse copies of an adapter: what a quantiser with given sensitivities would leave of it, without coding anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import e, pi, sqrt

import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.linalg import factored_svd
from adaptzip.core.rates import BIT_WEIGHT, ROW_BITS
from adaptzip.core.sensitivity import Sensitivity, root

_NEAR = 1.01

Updates = Mapping[str, tuple[Tensor, Tensor]]
"""By module, B (out, k) and A (k, in), float32."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """One module's update as U @ rows: orthonormal U (out, k), sizes S (k,) falling, rows (k, in).

    Both are multiplied by the module's gain; sizes are those of the rows under the moments.
    """

    U: Tensor
    S: Tensor
    rows: Tensor
    gain: float

    def copy(self, step: float) -> tuple[Tensor, Tensor]:
        """Factors B and A after rounding to multiples of the step."""
        kept = self._bits(step) > 0
        levels = (self.U * self.S / step).round().T[kept]
        unit = levels / levels.norm(dim=1, keepdim=True)
        # The rows that suit the rounded directions best.
        fitted = torch.linalg.lstsq(unit.T, self.U @ self.rows).solution if len(unit) else self.rows[kept]
        return unit.T, (fitted / step).round() * step / self.gain

    def bits(self, step: float) -> float:
        """About how many bits a copy takes."""
        return float(self._bits(step).sum())

    def _bits(self, step: float) -> Tensor:
        """(k,) bits of each component, as if its numbers were Gaussian; 0 where it is not worth them."""
        lengths = self.rows.norm(dim=1)
        bits = 2 * ROW_BITS + _bits(self.S / step, self.U.shape[0]) + _bits(lengths / step, self.rows.shape[1])
        worth = self.S.square() > BIT_WEIGHT * step**2 * bits
        # What is worth its bits has a number that does not round to zero.
        return torch.where(worth, bits, 0.0)


def coordinates(module: LoraFactors, sensitivity: Sensitivity) -> Coordinates:
    """A module's coordinates under its sensitivity."""
    gain = sensitivity.gain
    A, B = module.A.float(), module.B.float() * (module.scaling * gain)
    seen = A if sensitivity.moments is None else A @ root(sensitivity.moments)
    U, S, _ = factored_svd(seen[None], B[None])
    return Coordinates(U[0], S[0], (U[0].T @ B) @ A, gain)


def copy_of_size(found: Mapping[str, Coordinates], bits: float) -> Updates:
    """About the finest copy that takes at most so many bits."""

    def fits(step: float) -> bool:
        return sum(module.bits(step) for module in found.values()) <= bits

    step = _search(found, fits)[1]
    return {name: module.copy(step) for name, module in found.items()}


def copy_of_error(
    modules: Mapping[str, LoraFactors], found: Mapping[str, Coordinates], error: float
) -> tuple[Updates, float]:
    """About the coarsest copy with at most this relative error, and its bits."""
    energy = sum(float(module.S.square().sum()) for module in found.values())

    def misses(step: float) -> bool:
        copies = {name: module.copy(step) for name, module in found.items()}
        return sum(_lost(modules[name], copies[name]) for name in modules) > error**2 * energy

    step = _search(found, misses)[0]
    copies = {name: module.copy(step) for name, module in found.items()}
    return copies, sum(module.bits(step) for module in found.values())


def change(module: LoraFactors, copy: tuple[Tensor, Tensor]) -> Tensor:
    """dW' - dW, (out, in)."""
    B, A = copy
    return B @ A - module.delta().float()


def _lost(module: LoraFactors, copy: tuple[Tensor, Tensor]) -> float:
    return float(change(module, copy).square().sum())


def _search(found: Mapping[str, Coordinates], coarse: Callable[[float], bool]) -> tuple[float, float]:
    """Two steps 1 % apart: at the first `coarse` is false, at the second true."""
    high = sqrt(sum(float(module.S.square().sum()) for module in found.values())) or 1.0
    low = high * 1e-6
    while high / low > _NEAR:
        middle = sqrt(low * high)
        low, high = (low, middle) if coarse(middle) else (middle, high)
    return low, high


def _bits(lengths: Tensor, width: int) -> Tensor:
    """Bits of rows of a width whose lengths are given in steps, as if Gaussian."""
    return width / 2 * torch.log2(1 + 2 * pi * e * lengths.square() / width)
