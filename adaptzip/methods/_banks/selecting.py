"""Which bank vectors a piece mixes, as something that gradients reach: logits over the whole bank.

A piece is the softmax mixture of the vectors with its k highest logits (VB-LoRA, Li, Han and Ji 2024, section 3.2).
Only these get a gradient, and one vector alone has none. There the gradient is that of the mixture over a few of the
highest logits, while the value stays that of the highest (a straight-through estimator).
"""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.methods._banks.codes import Codes, on_levels

_GAP = 1.0
"""How far below a piece's own logits a vector at the mean squared distance from it begins."""
_SEEN = 4
"""Vectors whose logits get a gradient where pieces are single vectors."""
_LEAST = 0.25
"""What a weight of 0 is taken for, in levels, so that it has a logit."""


def logits_of(indices: Tensor, weights: Tensor, bank: Tensor, levels: int) -> Tensor:
    """Logits (rows, h) that stand for stored mixtures; other vectors lie lower the farther they are from the piece.

    Args:
        indices: (rows, k) int64.
        weights: (rows, k - 1) multiples of 1 / levels; the last is what they leave of 1.
        bank: (h, length).
    """
    whole = torch.cat([weights, 1 - weights.sum(1, keepdim=True)], 1).to(bank.dtype)
    own = whole.clamp(min=_LEAST / levels).log()
    pieces = (bank[indices] * whole.unsqueeze(2)).sum(1)
    away = torch.cdist(pieces, bank).square()
    away = away / away.mean().clamp(min=torch.finfo(away.dtype).tiny)
    # A vector that equals the piece must not take its place either.
    logits = own.min(1, keepdim=True).values - _GAP * (0.01 + away)
    return logits.scatter(1, indices, own)


def mixed(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices (rows, c) and weights (rows, c - 1) of the mixtures, differentiable in the logits; c may exceed k.

    The implied last weight is the largest; those before the last k are 0.
    """
    if k > 1:
        top, indices = logits.topk(k, dim=1)
        return indices.flip(1), top.softmax(1).flip(1)[:, :-1]
    top, indices = logits.topk(min(_SEEN, logits.shape[1]), dim=1)
    soft = top.softmax(1).flip(1)[:, :-1]
    return indices.flip(1), soft - soft.detach()


def selected(logits: Tensor, k: int, levels: int) -> tuple[Tensor, Tensor]:
    """Indices (rows, k) and stored weights (rows, k - 1) of the mixtures, weights on multiples of 1 / levels."""
    top, indices = logits.detach().topk(k, dim=1)
    codes = on_levels(Codes(indices, top.softmax(1)), levels)
    return codes.indices, codes.weights[:, :-1].contiguous()
