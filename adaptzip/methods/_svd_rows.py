"""The left factor of an update from its directions, with a compiled kernel where that pays."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.core import compiled


def unit_columns(U: Tensor) -> Tensor:
    """Rows (rank, out) of whole numbers as columns (out, rank) of unit length; a row of zeros stays one.

    Sums of squares are exact in float64, so that every machine finds the same; zeros have no gradient.
    """
    plain = U.device.type == "cpu" and U.dtype == torch.float32 and not U.requires_grad
    if plain and compiled.worthwhile(U.numel()):
        from adaptzip.methods._svd_kernels import columns

        found = torch.empty(U.shape[1], U.shape[0])
        columns(U.contiguous().numpy(), found.numpy())
        return found
    return interpreted(U)


def interpreted(U: Tensor) -> Tensor:
    """`unit_columns` in torch."""
    squares = U.double().square().sum(1, keepdim=True)
    norm = torch.where(squares > 0, squares, 1.0).sqrt().to(U.dtype)
    return torch.where(squares > 0, U / norm, 0.0).T
