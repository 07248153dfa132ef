"""The Gaussian rate-distortion bound of an adapter: the fewest bytes for its update at a relative error.

Each singular component s * u * v^T of each module is coded as two Gaussian sources, u of m numbers and v of n. At
distortions Du and Dv (mean squared error per variance) they cost m/2 log2(1/Du) + n/2 log2(1/Dv) bits (Cover and
Thomas, Elements of Information Theory, theorem 10.3.2) and (1 - Du)(1 - Dv) of the component's energy s^2 is kept.
The bound is the least sum of bits over all components of all modules at a given |dW - dW'| / |dW|. Real singular
vectors are no Gaussian noise, so a good coder may go below it.

The conditional bound is of a reader who knows r0 directions of the module's inputs, such as the random numbers that A
began with. A share o of v's energy lies outside of them. Then v is two sources, of r0 numbers inside and of n outside,
and reverse water-filling gives both one level t, in shares of energy per number:
Dv = min(o, n t) + min(1 - o, r0 t), at n/2 log2(o / (n t)) + r0/2 log2((1 - o) / (r0 t)) bits, no term below 0. What
lies outside could do with n - r0 numbers; it is counted as coders store it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.linalg import factored_svd

Floats = NDArray[np.float64]

_BISECTIONS = 100


@dataclass(frozen=True, eq=False)
class Components:
    """All singular components of an adapter, one entry each.

    Attributes:
        energy: squared singular value.
        out: length m of the left vector.
        width: length n of the right vector.
        frame: r0, known directions of the module's inputs; 0 where none are.
        outside: share o of the right vector's energy that lies outside of these; 1 where none are known.
    """

    energy: Floats
    out: Floats
    width: Floats
    frame: Floats | float = 0.0
    outside: Floats | float = 1.0

    @property
    def unknown(self) -> Components:
        """The same to a reader who knows nothing."""
        return replace(self, frame=0.0, outside=1.0)


def components(adapter: Adapter, frames: Basis | None = None) -> Components:
    """The components of every module, computed in float64 from the factors.

    Args:
        frames: directions that the reader knows, of those modules that have any.
    """
    rows: list[tuple[float, ...]] = []
    for name, module in adapter.modules.items():
        _, singular, right = factored_svd(module.A[None], module.B[None], module.scaling, dtype=torch.float64)
        known = frames.modules.get(name) if frames is not None else None
        size = 0 if known is None else known.size
        outside = torch.ones_like(singular[0]) if known is None else _outside(right[0].T, known.V.to(right))
        pairs = zip(singular[0].tolist(), outside.tolist(), strict=True)
        rows += [(s * s, *module.shape, size, share) for s, share in pairs]
    return Components(*np.array(rows, dtype=np.float64).reshape(-1, 5).T)


def _outside(right: Tensor, frame: Tensor) -> Tensor:
    """Share of each column's energy (k,) that lies outside a frame (in, r0)."""
    rest = right - frame @ (frame.T @ right)
    return (rest.square().sum(0) / right.square().sum(0).clamp(min=torch.finfo(right.dtype).tiny)).clamp(max=1.0)


def least_bytes(parts: Components, relative_error: float) -> float:
    """The bound in bytes at `relative_error`, which is over all modules together.

    A Lagrange multiplier, the bits that a unit of squared error is worth, ties the components to each other, so that
    finding it is the whole search. Where a component drops out the error jumps; an error inside such a jump is given
    the bits of the jump's lower end, which are the fewest that this solution knows to meet it.
    """
    return spend(parts, price_at(parts, relative_error))[0] / 8


def price_at(parts: Components, relative_error: float) -> float:
    """Bits that a unit of squared error is worth where the bound meets `relative_error`."""
    aim = relative_error**2 * parts.energy.sum()
    largest = float(parts.energy.max())
    low, high = 1e-6 / largest, 1e12 / largest
    for _ in range(_BISECTIONS):
        price = float(np.sqrt(low * high))
        if spend(parts, price)[1] > aim:
            low = price
        else:
            high = price
    return high


def spend(parts: Components, price: float) -> tuple[float, float]:
    """(bits, squared error) of all components where one unit of squared error is worth `price` bits."""
    bits, error = allot(parts, price)
    return float(bits.sum()), float(error.sum())


def allot(parts: Components, price: float) -> tuple[Floats, Floats]:
    """Bits and squared error of each component at a price.

    Setting the derivatives of bits + price * error to zero gives Du (1 - Dv) = m c and t (1 - Du) = c with
    c = 1 / (2 ln2 price s^2). Dv is g + w t on each stretch of t: (g, w) is (0, n + r0) where both parts of v are
    coded, (o, r0) or (1 - o, n) where one is. Hence t is the smaller root of
    w t^2 - (1 - g + (w - m) c) t + (1 - g) c = 0. Of the three, whichever is best at its t is taken. A component is
    dropped where there is no such point, or where all cost more than they save.
    """
    n, r0 = parts.width, np.broadcast_to(parts.frame, parts.energy.shape)
    inside = np.where(r0 > 0, 1 - np.asarray(parts.outside), 0.0)
    o = 1 - inside
    scale = 1 / (2 * np.log(2) * price * np.maximum(parts.energy, np.finfo(np.float64).tiny))
    levels = o / n, inside / np.maximum(r0, 1)
    bits, error = np.zeros_like(parts.energy), parts.energy
    for left, slope in ((np.zeros_like(o), n + r0), (o, r0), (inside, n)):
        level, possible = _level(1 - left, slope, parts.out, scale)
        u = 1 - scale / level
        possible &= (u > 0) & (u < 1) & (left + slope * level < 1)
        v = np.minimum(o, n * level) + np.minimum(inside, r0 * level)
        u = np.where(possible, u, 0.5)
        sizes = zip((n, r0), levels, strict=True)
        spent = sum(size * np.log2(np.maximum(most / level, 1.0)) for size, most in sizes)
        spent = (spent - parts.out * np.log2(u)) / 2
        lost = parts.energy * (1 - (1 - u) * (1 - v))
        better = possible & (spent + price * lost < bits + price * error)
        bits, error = np.where(better, spent, bits), np.where(better, lost, error)
    return bits, error


def _level(whole: Floats, slope: Floats, out: Floats, scale: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The level t on one stretch, 1 where there is none, and where there is one."""
    middle = whole + (slope - out) * scale
    with np.errstate(over="ignore", invalid="ignore"):
        root = np.square(middle) - 4 * slope * whole * scale
    possible = (root >= 0) & (middle > 0) & (slope > 0) & (whole > 0)
    middle, root = np.where(possible, middle, 1.0), np.where(possible, root, 1.0)
    # The smaller root as a quotient by the larger sum, which loses no digits where it is small.
    return np.where(possible, 2 * whole * scale / (middle + np.sqrt(root)), 1.0), possible
