"""All TT ranks of one update side by side: numbers stored, and energy kept as the spectra of the bonds foretell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adaptzip.methods._trains.chains import Half, Shape, chain_shape, largest_rank

Floats = NDArray[np.float64]
Side = Literal["out", "width"]
Bond = tuple[Side, int]
"""A bond by its side and the product of the modes between it and the far end; the middle one is `MIDDLE`."""
MIDDLE: Bond = ("out", -1)
_UNCUT = 2**31
_WHOLE = 1e-9
"""A share this near to 0 or 1 is taken for it."""
_MARGIN, _MARGIN_BETWEEN = 0.002, 0.05
"""How far below the estimate the logarithm of the odds stays, at measured ranks and between them."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """Chains of one update's shape at TT ranks 1, 2, ...; the last rank cuts nothing off.

    Attributes:
        shapes: the chain at each rank.
        numbers: stored numbers at each rank, int64, never falling.
        bonds: every bond that some rank has.
        ranks: rank of each bond (ranks, bonds), int64; where a chain has no such bond, more than any bond has.
    """

    shapes: tuple[Shape, ...]
    numbers: NDArray[np.int64]
    bonds: tuple[Bond, ...]
    ranks: NDArray[np.int64]

    def kept(self, spectra: Mapping[Bond, Floats]) -> Floats:
        """Share of the energy that each rank keeps: what is cut off at different bonds is taken for independent.

        Args:
            spectra: singular values of every bond, falling.
        """
        shares = np.ones(len(self.shapes))
        for column, bond in enumerate(self.bonds):
            energy = np.square(spectra[bond])
            upto = np.cumsum(energy) / max(energy.sum(), np.finfo(np.float64).tiny)
            shares *= upto[np.minimum(self.ranks[:, column], len(energy)) - 1]
        return shares

    def corrected(self, kept: Floats, measured: Mapping[int, float]) -> Floats:
        """`kept` moved so that it goes through shares that were measured at some ranks, never falling.

        It stays a little below: what is foretold of a chain should be within the reach of the cores that are coded.
        """
        ranks = np.array(sorted(measured))
        offsets = [_logit(np.array(measured[r])) - _logit(kept[r - 1]) for r in ranks]
        every = np.arange(1, len(kept) + 1)
        margin = np.where(np.isin(every, ranks), _MARGIN, _MARGIN_BETWEEN)
        odds = _logit(kept) + np.interp(np.log(every), np.log(ranks), offsets) - margin
        return np.maximum.accumulate(np.where(kept >= 1 - _WHOLE, 1.0, 1 / (1 + np.exp(-odds))))


def _logit(share: Floats) -> Floats:
    share = np.clip(share, _WHOLE, 1 - _WHOLE)
    return np.log(share / (1 - share))


@lru_cache(maxsize=4096)
def ladder(out: int, width: int, middle: int, *, whole: bool, most: int | None = None) -> Ladder:
    """The ladder of an update (out, width) of LoRA rank `middle`, up to TT rank `most`."""
    last = largest_rank(out, width, middle)
    full = chain_shape(out, width, last, middle, whole=whole)
    shapes = []
    for rank in range(1, min(last, most or last) + 1):
        shapes.append(chain_shape(out, width, rank, middle, whole=whole))
        if shapes[-1] == full:
            break
    found = [_bond_ranks(shape) for shape in shapes]
    bonds = tuple(sorted({bond for ranks in found for bond in ranks}))
    ranks = np.array([[ranks.get(bond, _UNCUT) for bond in bonds] for ranks in found], np.int64)
    return Ladder(tuple(shapes), np.maximum.accumulate([shape.numbers for shape in shapes]), bonds, ranks)


def bonds_of(half: Half, side: Side) -> list[Bond]:
    """The bonds of a side, the middle one last."""
    bonds: list[Bond] = [(side, product) for product in accumulate(half.modes, mul)]
    return [*bonds[:-1], MIDDLE]


def _bond_ranks(shape: Shape) -> dict[Bond, int]:
    out = dict(zip(bonds_of(shape.out, "out"), shape.out.ranks, strict=True))
    return out | dict(zip(bonds_of(shape.width, "width"), shape.width.ranks, strict=True))
