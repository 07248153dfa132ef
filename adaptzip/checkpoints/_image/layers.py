"""Rules of layers that many models have: projections of attention, feed-forward layers and embedders."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from adaptzip.checkpoints._image.rules import Rule

IMAGE, TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
BLOCK, SINGLE = "transformer_blocks.#", "single_transformer_blocks.#"
"""diffusers' names of projections, and of blocks of two streams and of one."""


def one(original: str, diffusers: str, *, swapped: bool | Fraction = False, ratio: Fraction | None = None) -> Rule:
    """A layer that is one in both, its halves swapped in all models or where it has so many outputs for an input."""
    only = swapped if isinstance(swapped, Fraction) else None
    return Rule(original, (diffusers,), halves_swapped=bool(swapped), ratio=ratio, swapped_ratio=only)


def qkv(original: str, names: Sequence[str], shares: tuple[int, ...] = (1, 1, 1)) -> Rule:
    """Queries, keys and values that are one layer in the original implementation."""
    return Rule(original, tuple(names), shares, ratio=Fraction(sum(shares), shares[0]))


def same(paths: Sequence[str]) -> tuple[Rule, ...]:
    """Layers that are called the same in both."""
    return tuple(one(path, path) for path in paths)


def mlp(original: str, ends: tuple[str, str], diffusers: str, growth: int | None = None) -> tuple[Rule, Rule]:
    """The two layers of a feed-forward layer, whose inner width is `growth` times the outer one."""
    there, back = (None, None) if growth is None else (Fraction(growth), Fraction(1, growth))
    return (
        one(f"{original}.{ends[0]}", f"{diffusers}.net.0.proj", ratio=there),
        one(f"{original}.{ends[1]}", f"{diffusers}.net.2", ratio=back),
    )


def embedder(original: str, diffusers: str) -> tuple[Rule, Rule]:
    """The two layers that a number or a vector goes through."""
    return one(f"{original}.in_layer", f"{diffusers}.linear_1"), one(f"{original}.out_layer", f"{diffusers}.linear_2")
