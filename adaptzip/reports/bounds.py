"""The Gaussian rate-distortion bound of an adapter: the fewest bytes for its update at a relative error.

Each singular component s * u * v^T of each module is coded as two Gaussian sources, u of m numbers and v of n. At
distortions Du and Dv (mean squared error per variance) they cost m/2 log2(1/Du) + n/2 log2(1/Dv) bits (Cover and
Thomas, Elements of Information Theory, theorem 10.3.2) and (1 - Du)(1 - Dv) of the component's energy s^2 is kept.
The bound is the least sum of bits over all components of all modules at a given |dW - dW'| / |dW|. Real singular
vectors are no Gaussian noise, so a good coder may go below it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from adaptzip.core.adapter import Adapter
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
    """

    energy: Floats
    out: Floats
    width: Floats


def components(adapter: Adapter) -> Components:
    """The components of every module, computed in float64 from the factors."""
    rows: list[tuple[float, int, int]] = []
    for module in adapter.modules.values():
        _, singular, _ = factored_svd(module.A[None], module.B[None], module.scaling, dtype=torch.float64)
        rows += [(s * s, *module.shape) for s in singular[0].tolist()]
    energy, out, width = np.array(rows, dtype=np.float64).T
    return Components(energy, out, width)


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

    Setting the derivatives of bits + price * error to zero gives Du (1 - Dv) = a and Dv (1 - Du) = b with
    a = m / (2 ln2 price s^2) and b likewise with n; hence Du - Dv = a - b, and Du is the smaller root of
    D^2 - (1 + a - b) D + a = 0. A component is dropped where there is no such point, or where it costs more than it
    saves.
    """
    scale = 1 / (2 * np.log(2) * price * np.maximum(parts.energy, np.finfo(np.float64).tiny))
    a, b = parts.out * scale, parts.width * scale
    with np.errstate(over="ignore", invalid="ignore"):
        root = np.square(1 + a - b) - 4 * a
    inside = (root >= 0) & (a < 1) & (b < 1)
    a, b = np.where(inside, a, 0.1), np.where(inside, b, 0.1)
    # The smaller root as 2a / (larger sum), which loses no digits where a is small.
    u = 2 * a / (1 + a - b + np.sqrt(np.square(1 + a - b) - 4 * a))
    v = u - a + b
    bits = -(parts.out * np.log2(u) + parts.width * np.log2(v)) / 2
    error = parts.energy * (1 - (1 - u) * (1 - v))
    kept = inside & (bits + price * error < price * parts.energy)
    return np.where(kept, bits, 0.0), np.where(kept, error, parts.energy)
