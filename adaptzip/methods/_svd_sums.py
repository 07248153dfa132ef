"""Least squares of an update U S V^T for coded rows U', of one module or of many of one shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_DEPENDENT = 1e10
"""An inverse Gram matrix with larger numbers is one of rows that depend on each other."""


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What the span of coded rows leaves of an update, and what it holds.

    Attributes:
        unit: (..., rank, out), the coded rows at unit length; zero rows stay zero.
        core: (..., rank, k), the best combination of the update's rows V for each of them.
        outside: (..., out, k), the part of U S outside their span.
    """

    unit: Tensor
    core: Tensor
    outside: Tensor

    def squared_error(self, inside: Tensor, moments: Tensor | None = None) -> Tensor:
        """(...,) |dW - dW'|^2, with no cancellation, where rows within the span are off by `inside` (..., rank, in)."""
        seen = inside if moments is None else inside @ moments
        gram = (self.unit @ self.unit.mT).double() * (seen @ inside.mT).double()
        return self.outside.double().square().sum((-2, -1)) + gram.sum((-2, -1))


def least_squares_rows(U: Tensor, S: Tensor, V: Tensor, coded: Tensor) -> Tensor:
    """(..., rank, in): the rows that, with the coded rows of U', give the nearest update.

    Args:
        U, S, V: (..., out, k), (..., k) and (..., in, k).
        coded: (..., rank, out).
    """
    return _core(U, S, *_unit_rows(coded)) @ V.mT


def left_out(U: Tensor, S: Tensor, coded: Tensor) -> LeftOut:
    """What coded rows leave of an update; arguments as for `least_squares_rows`."""
    unit, inverse = _unit_rows(coded)
    core = _core(U, S, unit, inverse)
    return LeftOut(unit, core, U * S.unsqueeze(-2) - unit.mT @ core)


def _unit_rows(U: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit length (zero rows stay zero) and the inverse of their Gram matrix."""
    norm = U.square().sum(-1, keepdim=True).sqrt()
    unit = torch.where(norm > 0, U / norm, 0.0)
    gram = (unit @ unit.mT).double()
    gram.diagonal(dim1=-2, dim2=-1)[norm[..., 0] == 0] = 1.0
    inverse, failed = torch.linalg.inv_ex(gram)
    if bool(failed.any()) or not bool((inverse.abs() < _DEPENDENT).all()):
        # Rows of a few coordinates may be coded alike: the update's rows are then shared out among them.
        inverse = torch.linalg.pinv(gram, rtol=1 / _DEPENDENT, hermitian=True)
    return unit, inverse.to(U.dtype)


def _core(U: Tensor, S: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    return inverse @ ((unit @ U) * S.unsqueeze(-2))
