"""Pieces of rows, and the codes that stand for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Codes:
    """Which bank vectors make up the pieces of some rows, and with what weights.

    Attributes:
        indices: (..., rows, pieces, k), int64, no two alike in a piece.
        weights: (..., rows, pieces, k), float32, not negative, adding up to 1; the largest is the last.
    """

    indices: Tensor
    weights: Tensor

    @property
    def k(self) -> int:
        return self.indices.shape[-1]

    def reshape(self, shape: tuple[int, ...]) -> Codes:
        return Codes(self.indices.reshape(shape), self.weights.reshape(shape))


def piece_count(width: int, length: int) -> int:
    """Pieces of `length` that cover a row of `width`; the last may reach beyond it."""
    return -(-width // length)


def cut(rows: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
    """Rows (..., width) as whole pieces (..., whole, length) and, where something is left, the rest (..., rest)."""
    whole = rows.shape[-1] // length
    rest = rows[..., whole * length :]
    pieces = rows[..., : whole * length].reshape(*rows.shape[:-1], whole, length)
    return pieces, rest if rest.shape[-1] else None


def decode(bank: Tensor, codes: Codes, width: int) -> Tensor:
    """Rows (..., rows, width) from a bank (h, length); what reaches beyond `width` is cut off."""
    pieces = _picked(bank, codes.indices[..., 0]) if codes.k == 1 else sum_of(bank, codes)
    return pieces.flatten(-2)[..., :width]


def sum_of(bank: Tensor, codes: Codes) -> Tensor:
    """The mixtures (..., length), one term after another."""
    total = _weighted(bank, codes, 0)
    for term in range(1, codes.k):
        total += _weighted(bank, codes, term)
    return total


def _weighted(bank: Tensor, codes: Codes, term: int) -> Tensor:
    picked, weights = _picked(bank, codes.indices[..., term]), codes.weights[..., term, None]
    # In place, where no gradient needs what was there: fresh memory costs more than the product.
    return picked * weights if picked.requires_grad or weights.requires_grad else picked.mul_(weights)


def _picked(bank: Tensor, indices: Tensor) -> Tensor:
    return bank.index_select(0, indices.flatten()).reshape(*indices.shape, bank.shape[1])


def ordered(codes: Codes) -> Codes:
    """The same mixtures with weights in rising order."""
    order = codes.weights.argsort(dim=-1, stable=True)
    return Codes(codes.indices.gather(-1, order), codes.weights.gather(-1, order))


def on_levels(codes: Codes, levels: int) -> Codes:
    """Weights as multiples of 1 / `levels`, in rising order: all but the largest are rounded, it takes the rest."""
    if codes.k == 1:
        return codes
    codes = ordered(codes)
    small = (codes.weights[..., :-1] * levels).round()
    largest = levels - small.sum(-1, keepdim=True)
    return ordered(Codes(codes.indices, torch.cat([small, largest], -1) / levels))
