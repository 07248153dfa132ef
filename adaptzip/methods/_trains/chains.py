"""Shapes of the chains that stand for an update (out, in): modes, bond ranks, and which modes are one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from adaptzip.methods._trains.modes import factorise


@dataclass(frozen=True)
class Half:
    """One side of a chain, from its far end to the bond in the middle.

    Attributes:
        modes: k_1 .. k_d, whose product is the side's width.
        ranks: r_1 .. r_d; core i is (r_{i-1}, k_i, r_i) with r_0 = 1, and r_d is the middle bond.
    """

    modes: tuple[int, ...]
    ranks: tuple[int, ...]

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(r_{i-1}, k_i, r_i) of every core."""
        return tuple(zip((1, *self.ranks), self.modes, self.ranks, strict=False))

    @property
    def numbers(self) -> int:
        return sum(prod(shape) for shape in self.shapes)


@dataclass(frozen=True)
class Shape:
    """A chain: both sides meet at one middle bond."""

    out: Half
    width: Half

    @property
    def middle(self) -> int:
        return self.out.ranks[-1]

    @property
    def numbers(self) -> int:
        return self.out.numbers + self.width.numbers


@lru_cache(maxsize=65536)
def chain_shape(out: int, width: int, rank: int, middle: int, *, whole: bool = False) -> Shape:
    """The chain of an update (out, width) at TT rank `rank` and LoRA rank `middle` (formats/methods/loretta.md).

    Args:
        whole: keep the LoRA rank whole at the middle bond (LoRETTA_rep) instead of capping it too (TT-LoRA).
    """
    sides = factorise(out), factorise(width)
    most = min(rank * modes[-1] for modes in sides) if whole else rank
    middle = min(middle, most, out, width)
    return Shape(_half(sides[0], rank, middle), _half(sides[1], rank, middle))


def largest_rank(out: int, width: int, middle: int) -> int:
    """The smallest TT rank at which nothing is cut off an update (out, width) of LoRA rank `middle`."""
    middle = min(middle, out, width)
    bonds = [bond for modes in (factorise(out), factorise(width)) for bond in _full_ranks(modes, middle)]
    return max(middle, *bonds) if bonds else middle


def _full_ranks(modes: Sequence[int], middle: int) -> list[int]:
    return [min(prod(modes[:i]), middle * prod(modes[i:])) for i in range(1, len(modes))]


def _half(modes: tuple[int, ...], rank: int, middle: int) -> Half:
    """Neighbouring cores are stored as one wherever that takes no more numbers, those first that save most."""
    half = Half(modes, (*(min(rank, bond) for bond in _full_ranks(modes, middle)), middle))
    while len(half.modes) > 1:
        savings = [_saving(half, bond) for bond in range(len(half.modes) - 1)]
        best = max(savings)
        if best < 0:
            break
        half = _merged(half, savings.index(best))
    return half


def _saving(half: Half, bond: int) -> int:
    """Numbers saved by storing cores `bond` and `bond + 1`, counted from 0, as one."""
    before = half.ranks[bond - 1] if bond else 1
    left, right = before * half.modes[bond], half.modes[bond + 1] * half.ranks[bond + 1]
    return (left + right) * half.ranks[bond] - left * right


def _merged(half: Half, bond: int) -> Half:
    modes, ranks = half.modes, half.ranks
    return Half((*modes[:bond], modes[bond] * modes[bond + 1], *modes[bond + 2 :]), (*ranks[:bond], *ranks[bond + 1 :]))
