"""What a bank is expected to achieve, from singular values alone.

Numbers of a component s u v^T in the first gauge are taken for Gaussian with variance s / sqrt(out * in), so that all
pieces together are a mixture of Gaussian clouds, in which a squared error has the weight of the other factor. What h
vectors of b numbers leave of such a cloud is given by the theory of fine quantisation (Zador 1982; Gersho and Gray,
Vector Quantization and Signal Compression, section 5.6, with weights): b G h^(-2/b) |g|, where g is the weighted
density, |g| its (b / (b+2))-norm and G a constant of the dimension. It is corrected for coarse quantisation, for banks
that learn their pieces by heart, and by factors measured on real adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma, log, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]

_BINS = 48
_RADII = 160
_DIMENSIONS = np.array([1.0, 2, 3, 4, 8, 16, 24, 1e4])
_MOMENTS = np.array([0.08333, 0.08019, 0.07854, 0.0766, 0.0717, 0.0683, 0.0658, 0.05855])
"""Second moments of good lattices (Conway and Sloane 1999, table 2.3), which good quantisers come near to."""
_FACTOR, _POWER = 0.55, 0.92
"""Corrections of the theory's error: numbers of trained adapters have heavier tails than Gaussian ones."""
_MIXED = 0.22
"""A bank of h vectors with mixtures of k is worth h^(1 + this (k - 1)) vectors."""
_LEARNT = 3.3
"""What is fitted freely, as a share of all numbers, takes the error off with this power."""


@dataclass(frozen=True, eq=False)
class Clouds:
    """Components of like variance taken together.

    Attributes:
        variance: of a number, (n,).
        weight: summed cost of a squared error of 1 in every number, (n,).
        numbers: in all pieces together.
    """

    variance: Array
    weight: Array
    numbers: float

    @property
    def energy(self) -> float:
        """Weighted square of all numbers: twice the components' energy, once for each factor."""
        return float((self.variance * self.weight).sum())


def clouds(singular: Array, out: Array, width: Array) -> Clouds:
    """Clouds of components, all arrays (n,)."""
    variance = singular / np.sqrt(out * width)
    keep = variance > 0
    variance, weight = variance[keep], (2 * out * width * variance)[keep]
    logs = np.log(variance)
    edges = np.linspace(logs.min(), logs.max(), _BINS + 1) if len(logs) else np.zeros(_BINS + 1)
    place = np.clip(np.searchsorted(edges, logs, side="right") - 1, 0, _BINS - 1)
    total = np.bincount(place, weights=weight, minlength=_BINS).astype(np.float64)
    energy = np.bincount(place, weights=weight * variance, minlength=_BINS).astype(np.float64)
    full = total > 0
    return Clouds(energy[full] / total[full], total[full], float((out + width).sum()))


def fine_error(found: Clouds, b: int) -> float:
    """Relative error of fine quantisation at pieces of b numbers, times h^(2/b)."""
    moment = float(np.interp(np.log(b), np.log(_DIMENSIONS), _MOMENTS))
    return float(np.exp(log(b * moment) + _log_norm(found, b) - log(found.energy)))


def relative_error(fine: float, pieces: int, h: int, b: int, k: int) -> float:
    """Expected squared error of a factor's pieces, as a share of their energy.

    Args:
        fine: as `fine_error` gives it.
        pieces: pieces of all factors, which h vectors of b numbers stand for, k to a piece.
    """
    worth = 1 + _MIXED * (k - 1)
    share = _FACTOR * exp(_POWER * (log(max(fine, 1e-300)) - 2 * worth / b * log(h)))
    # A vector per piece, and k - 1 weights for the b numbers of a piece, would leave no error.
    free = h / pieces + (k - 1) / (b + k - 1)
    left: float = max(0.0, 1 - free) ** _LEARNT
    return min(1.0, share) * left


def _log_norm(found: Clouds, b: int) -> float:
    """Logarithm of the (b / (b+2))-norm of the weighted density of pieces of b numbers."""
    p = b / (b + 2)
    # In many dimensions a cloud is a thin shell of radius sqrt(b variance), whose tails must lie within the grid.
    nearest = log(sqrt(found.variance.min() * b) * max(0.02, 1 - 6 / sqrt(b)))
    farthest = log(sqrt(found.variance.max()) * (sqrt(b) + 8))
    logs: Array = np.linspace(nearest, farthest, _RADII)
    variance = found.variance[:, None]
    densities = np.exp(2 * logs) / (-2 * variance) - b / 2 * np.log(2 * np.pi * variance)
    density = logsumexp(np.log(found.weight / b)[:, None] + densities, axis=0)
    surface: float = log(2) + b / 2 * log(pi) - lgamma(b / 2)
    return float(logsumexp(p * density + b * logs + surface + log(logs[1] - logs[0])) / p)
