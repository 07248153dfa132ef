"""Parametrisations of few numbers, for trials of what a student may store: one shared vector, and factors in frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.trainable import Trainable

RANK = 4
"""Of A where it is drawn, or shared."""


@dataclass(frozen=True)
class Named(Site):
    """A site that knows whose it is."""

    name: str = ""


@dataclass(frozen=True)
class Config:
    """How many numbers are shared."""

    numbers: int = 1


@dataclass(frozen=True, eq=False)
class Places:
    """Where a matrix takes its numbers in the shared vector, and what each is multiplied by."""

    index: Tensor
    scale: Tensor

    def __call__(self, vector: Tensor) -> Tensor:
        return vector[self.index] * self.scale


class Shared(Trainable[Config]):
    """One vector for all modules; `made` has A, or its places, and the places of B."""

    name = "shared"
    version = 1
    summary = "one vector at seeded places"
    paper = "Li et al. 2025 (Uni-LoRA, arXiv:2506.00799)"
    config_type = Config
    roles = ()
    shared_roles = ("vector",)

    def __init__(self, made: Mapping[str, tuple[Tensor | Places, Places]]) -> None:
        self.made = made

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        return ()

    def shared_layout(self, config: Config) -> tuple[TensorSpec, ...]:
        return (TensorSpec("vector", 1, config.numbers),)

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        vector = tensors["vector"].reshape(-1)
        A, B = self.made[name_of(site)]
        return A(vector) if isinstance(A, Places) else A, B(vector)


class InFrame(Trainable[Config]):
    """Singular factors, whose in-vectors are coordinates in a frame (k, in)."""

    name = "in-frame"
    version = 1
    summary = "singular factors in frames"
    paper = "none"
    config_type = Config
    roles = ("U", "C")

    def __init__(self, frames: Mapping[str, Tensor]) -> None:
        self.frames = frames

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("U", rank, site.out, directions=True),
            TensorSpec("C", rank, len(self.frames[name_of(site)])),
        )

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        U = tensors["U"]
        norm = U.square().sum(1, keepdim=True)
        return tensors["C"] @ self.frames[name_of(site)], (U / torch.where(norm > 0, norm, 1.0).sqrt()).T


def name_of(site: Site) -> str:
    assert isinstance(site, Named)
    return site.name


def places(count: int, numbers: int, seed: int) -> Tensor:
    """(count,) places in a vector of `numbers`, all used equally often, in the order that PEFT's UNILORA draws."""
    generator = np.random.default_rng(seed)
    drawn = np.repeat(np.arange(numbers), count // numbers)
    drawn = np.concatenate([drawn, generator.choice(numbers, count % numbers, replace=False)])
    generator.shuffle(drawn)
    return torch.from_numpy(drawn)


def spread(
    sites: Mapping[str, Site], numbers: int, directions: Mapping[str, Tensor] | None, signed: bool, seed: int = 0
) -> dict[str, tuple[Tensor | Places, Places]]:
    """A and B of every module as places in the shared vector.

    Args:
        directions: A of each module; None shares A as well, at rank `RANK`.
        signed: every place has a random sign.
    """
    rank = {name: RANK if directions is None else len(directions[name]) for name in sites}
    shapes = [shape for name, site in sites.items() for shape in _shared(site, rank[name], directions is None)]
    index = places(sum(rows * width for rows, width in shapes), numbers, seed)
    scale = torch.bincount(index, minlength=numbers).clamp(min=1).float().rsqrt()[index]
    if signed:
        scale = scale * _signs((len(index),), torch.Generator().manual_seed(seed))
    sizes = [rows * width for rows, width in shapes]
    cut = [
        Places(i.reshape(shape), s.reshape(shape))
        for i, s, shape in zip(torch.split(index, sizes), torch.split(scale, sizes), shapes, strict=True)
    ]
    if directions is None:
        return {name: (cut[2 * k], cut[2 * k + 1]) for k, name in enumerate(sites)}
    return {name: (directions[name], cut[k]) for k, name in enumerate(sites)}


def _shared(site: Site, rank: int, both: bool) -> list[tuple[int, int]]:
    return [*([(rank, site.width)] if both else []), (site.out, rank)]


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1


def signs(sites: Mapping[str, Site], seed: int = 1) -> dict[str, Tensor]:
    """A of each module: rows of random signs, of unit length."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _signs((RANK, site.width), generator) / sqrt(site.width) for name, site in sites.items()}
