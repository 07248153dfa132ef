"""First bank vectors: k-means++ with weights (Arthur and Vassilvitskii 2007), many draws between two measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.core.workers import parallel_map

_ROUNDS = 32
"""Measurements of distances; the vectors drawn between two do not know of each other."""
_BLOCK = {"cpu": 2**18, "cuda": 2**22}
"""Numbers in a block of products, which stay in a processor's cache."""


def seed_bank(pieces: Tensor, weights: Tensor, h: int, generator: torch.Generator) -> Tensor:
    """h of the pieces (n, length), drawn with chances in proportion to weight times squared distance.

    Where there are fewer pieces than vectors the rest repeat pieces.

    Args:
        generator: on the CPU, where all drawing takes place: a seed gives the same bank wherever it is fitted.
    """
    square = pieces.square().sum(1)
    distance = square
    chosen = torch.zeros(0, dtype=torch.int64, device=pieces.device)
    for wanted in _portions(min(h, len(pieces))):
        drawn = _draw(weights * distance, chosen, wanted, generator)
        chosen = torch.cat([chosen, drawn])
        distance = torch.minimum(distance, _nearest_square(pieces, square, pieces[drawn]))
    if len(chosen) < h:
        chosen = torch.cat([chosen, torch.arange(h - len(chosen), device=chosen.device) % len(pieces)])
    return pieces[chosen].clone()


def _portions(count: int) -> list[int]:
    size = max(1, -(-count // _ROUNDS))
    return [1] + [min(size, count - start) for start in range(1, count, size)]


def _draw(mass: Tensor, chosen: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices without replacement, by the exponential race; those already chosen come last."""
    mass = mass.double().cpu()
    mass[chosen.cpu()] = 0
    # Pieces of no mass are drawn only when no others are left.
    mass = mass / mass.sum().clamp(min=torch.finfo(torch.float64).tiny)
    clock = torch.empty_like(mass).exponential_(generator=generator) / mass.clamp(min=1e-300)
    clock[chosen.cpu()] = float("inf")
    return clock.topk(count, largest=False).indices.to(chosen.device)


def _nearest_square(pieces: Tensor, square: Tensor, vectors: Tensor) -> Tensor:
    """Squared distance (n,) of every piece, whose own squares are known, to the nearest vector."""
    half = vectors.square().sum(1) / 2

    def least(part: Tensor) -> Tensor:
        return torch.addmm(half, part, vectors.T, alpha=-1).amin(1)

    block = _BLOCK.get(pieces.device.type, _BLOCK["cpu"])
    parts = torch.split(pieces, max(1, block // len(vectors)))
    nearest = list(parallel_map(least, parts, device=pieces.device))
    return (2 * torch.cat(nearest) + square).clamp(min=0)
