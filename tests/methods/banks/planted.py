"""Adapters made from a known bank."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adaptzip.core.adapter import LoraFactors
from adaptzip.methods._banks.codes import Codes, decode, piece_count
from adaptzip.testing.adapters import Shape


def planted(shapes: Sequence[Shape], h: int, length: int, k: int, *, seed: int = 0) -> dict[str, LoraFactors]:
    """Modules whose factors are mixtures of k of h random vectors."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(h, length, generator=generator)

    def rows(rank: int, width: int) -> torch.Tensor:
        pieces = piece_count(width, length)
        order = torch.rand(rank, pieces, h, generator=generator).argsort(-1)
        weights = torch.rand(rank, pieces, k, generator=generator) + 0.2
        return decode(bank, Codes(order[..., :k], weights / weights.sum(-1, keepdim=True)), width)

    return {
        f"m.{i}": LoraFactors(rows(rank, width), rows(rank, out).T.contiguous())
        for i, (out, width, rank) in enumerate(shapes)
    }
