"""Fleets of small adapters: some whose updates are made of components that all of them know, and strangers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.testing.adapters import adapter

WIDTH, RANK = 32, 2
NAMES = ("m.0", "m.1")


def alike(
    count: int, *, names: Sequence[str] = NAMES, pool: int = 6, noise: float = 0.05, seed: int = 0
) -> list[Adapter]:
    """Adapters whose modules each have `RANK` of the `pool` components of their place, and a little of their own."""
    generator = torch.Generator().manual_seed(seed)

    def directions() -> torch.Tensor:
        found: torch.Tensor = torch.linalg.qr(torch.randn(WIDTH, pool, generator=generator))[0]
        return found

    def module(U: torch.Tensor, V: torch.Tensor) -> LoraFactors:
        chosen = torch.randperm(pool, generator=generator)[:RANK]
        own = noise / WIDTH**0.5 * torch.randn(2, WIDTH, RANK, generator=generator)
        signs = torch.randn(RANK, generator=generator).sign() * 0.66 ** torch.arange(RANK)
        return LoraFactors((V[:, chosen] + own[0]).T.contiguous(), (U[:, chosen] + own[1]) * signs)

    places: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = {name: (directions(), directions()) for name in names}
    return [Adapter({name: module(*places[name]) for name in names}) for _ in range(count)]


def strangers(count: int) -> list[Adapter]:
    """Adapters of the same shapes that share nothing."""
    shapes = dict.fromkeys(NAMES, (WIDTH, WIDTH, RANK))
    return [adapter(shapes, seed=100 * i) for i in range(count)]
