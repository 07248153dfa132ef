"""Coarse copies of an adapter: what a quantiser with given sensitivities would leave of it, without coding anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import e, pi, sqrt

import torch
from torch import Tensor

from adaptzip.adapter import Adapter, LoraFactors
from adaptzip.linalg import factored_svd
from adaptzip.sensitivity import Sensitivity, root

_ROW_BITS = 10.0
_BIT_WEIGHT = 0.2
"""Squared error, in units of the step squared, that a bit must buy, about as the quantiser has it."""
_ROUNDS = 40

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

    def copy(self, step: float) -> tuple[Tensor, Tensor, float]:
        """Factors B and A after rounding to multiples of the step, and about how many bits they take."""
        levels = (self.U * self.S / step).round().T
        norm = levels.norm(dim=1, keepdim=True)
        bits = _bits(levels, self.S / sqrt(self.U.shape[0]) / step) + _bits(
            self.rows, self.rows.norm(dim=1) / sqrt(self.rows.shape[1]) / step
        )
        kept = (norm[:, 0] > 0) & (self.S.square() > _BIT_WEIGHT * step**2 * bits)
        unit = (levels / norm.clamp(min=1))[kept]
        # The rows that suit the rounded directions best.
        fitted = torch.linalg.lstsq(unit.T, self.U @ self.rows).solution if len(unit) else self.rows[kept]
        return unit.T, (fitted / step).round() * step / self.gain, float(bits[kept].sum())


def coordinates(module: LoraFactors, sensitivity: Sensitivity) -> Coordinates:
    """A module's coordinates under its sensitivity."""
    gain = sensitivity.gain
    A, B = module.A.float(), module.B.float() * (module.scaling * gain)
    seen = A if sensitivity.moments is None else A @ root(sensitivity.moments)
    U, S, _ = factored_svd(seen[None], B[None])
    return Coordinates(U[0], S[0], (U[0].T @ B) @ A, gain)


def coarse_copy(found: Mapping[str, Coordinates], step: float) -> tuple[Updates, float]:
    """Every module rounded at one step, and the bits of all."""
    copies, bits = {}, 0.0
    for name, module in found.items():
        B, A, size = module.copy(step)
        copies[name] = B, A
        bits += size
    return copies, bits


def copy_of_size(found: Mapping[str, Coordinates], bits: float) -> Updates:
    """The finest copy that takes at most so many bits."""
    high = sqrt(sum(float(module.S.square().sum()) for module in found.values())) or 1.0
    low = high * 1e-6
    for _ in range(_ROUNDS):
        middle = sqrt(low * high)
        if coarse_copy(found, middle)[1] > bits:
            low = middle
        else:
            high = middle
        if high / low < 1.01:
            break
    return coarse_copy(found, high)[0]


def copy_of_error(adapter: Adapter, found: Mapping[str, Coordinates], error: float) -> tuple[Updates, float]:
    """The coarsest copy with at most this relative error, and its bits."""
    energy = sum(float(module.delta().square().sum()) for module in adapter.modules.values())
    low, high = sqrt(energy) * 1e-6, sqrt(energy) or 1.0
    for _ in range(_ROUNDS):
        middle = sqrt(low * high)
        copies, _bits_used = coarse_copy(found, middle)
        lost = sum(float(change(module, copies[name]).square().sum()) for name, module in adapter.modules.items())
        if lost > error**2 * energy:
            high = middle
        else:
            low = middle
        if high / low < 1.01:
            break
    return coarse_copy(found, low)


def change(module: LoraFactors, copy: tuple[Tensor, Tensor]) -> Tensor:
    """dW' - dW, (out, in)."""
    B, A = copy
    return B @ A - module.delta().float()


def _bits(rows: Tensor, deviation: Tensor) -> Tensor:
    """Bits of rows whose numbers have a deviation in steps, as if Gaussian."""
    return _ROW_BITS + rows.shape[1] * 0.5 * torch.log2(1 + 2 * pi * e * deviation.square())
