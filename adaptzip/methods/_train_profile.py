"""What a tensor train of an update costs at each TT rank and quantiser step, foretold from the spectra of its bonds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adaptzip.core.rates import BIT_WEIGHT, ROW_BITS
from adaptzip.methods._rates import row_costs
from adaptzip.methods._trains.chains import Half
from adaptzip.methods._trains.ladders import MIDDLE, Bond, Floats, Ladder, Side, bonds_of

Whole = NDArray[np.int64]
_RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
"""TT ranks that are compared at a step, besides the largest."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of some chains, as their singular values foretell them.

    Attributes:
        chain, stage: of every row off the middle bond, which chain and which core it belongs to.
        energy, width: its energy, and how many numbers it has.
        chain_of_stage: the chain of each of these cores.
        middle_chain, middle_energy: of every direction of a middle bond.
        middle_widths: how many numbers its two rows have, (2, directions).
    """

    chain: Whole
    stage: Whole
    energy: Floats
    width: Floats
    chain_of_stage: Whole
    middle_chain: Whole
    middle_energy: Floats
    middle_widths: Floats


@dataclass(eq=False)
class TrainProfile:
    """What is kept of a fitted module; it remembers the rows of TT ranks that it was asked about.

    Attributes:
        energy: |dW|^2.
        spectra: singular values of every bond, float64, falling.
        ladder: the chains of its shape.
        kept: share of the energy that the chain of each TT rank keeps.
    """

    energy: float
    spectra: Mapping[Bond, Floats]
    ladder: Ladder
    kept: Floats
    _rows: dict[tuple[int, ...], Rows] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """Energy saved per number by each TT rank, averaged over runs of ranks until it falls."""
        return _falling(self.energy * np.diff(self.kept, prepend=0), np.diff(self.ladder.numbers, prepend=0))

    def best_rank(self, step: float) -> int:
        """The TT rank at which squared error and bits together cost least; 0 if nothing is worth its bits."""
        ranks = tuple(sorted({*(r for r in _RANKS if r < len(self.kept)), len(self.kept)}))
        bits, error = self.costs(ranks, step)
        cost = error + BIT_WEIGHT * step**2 * bits
        best = int(cost.argmin())
        return ranks[best] if cost[best] < self.energy else 0

    def costs(self, ranks: tuple[int, ...], step: float) -> tuple[Floats, Floats]:
        """Expected (bits, squared error) at each of some TT ranks of at least 1.

        Each core loses a share of what the cores before it left; losses at the middle bond are those of each of its
        directions on either side.
        """
        if ranks not in self._rows:
            self._rows[ranks] = self._rows_of(ranks)
        rows, count = self._rows[ranks], len(ranks)
        rate, error = row_costs(np.sqrt(rows.energy / rows.width) / step)
        # Of no rows at all, bincount is an array of whole numbers.
        bits = np.bincount(rows.chain, rows.width * rate + ROW_BITS, count).astype(np.float64)
        lost = np.bincount(rows.stage, rows.energy * error, len(rows.chain_of_stage))
        middle_rate, middle_error = row_costs(np.sqrt(rows.middle_energy / rows.middle_widths) / step)
        bits += np.bincount(rows.middle_chain, (rows.middle_widths * middle_rate + ROW_BITS).sum(0), count)
        left = np.bincount(rows.middle_chain, rows.middle_energy * (1 - middle_error).prod(0), count).astype(np.float64)
        whole = self.energy * self.kept[np.array(ranks) - 1]
        remains = 1 - lost / np.maximum(whole[rows.chain_of_stage], np.finfo(np.float64).tiny)
        np.multiply.at(left, rows.chain_of_stage, np.clip(remains, 0, 1))
        lost_energy: Floats = self.energy - left
        return bits, lost_energy

    def _rows_of(self, ranks: Sequence[int]) -> Rows:
        found: list[tuple[int, int, Floats, int]] = []
        stages: list[int] = []
        middles: list[tuple[int, Floats, list[int]]] = []
        for chain, rank in enumerate(ranks):
            shape, energy = self.ladder.shapes[rank - 1], self.energy * self.kept[rank - 1]
            widths = []
            sides: tuple[tuple[Half, Side], ...] = (shape.out, "out"), (shape.width, "width")
            for half, side in sides:
                for bond, (left, mode, right) in zip(bonds_of(half, side), half.shapes, strict=True):
                    if bond == MIDDLE:
                        widths.append(left * mode)
                        continue
                    found.append((chain, len(stages), _scaled(self.spectra[bond][:right], energy), left * mode))
                    stages.append(chain)
            middles.append((chain, _scaled(self.spectra[MIDDLE][: shape.middle], energy), widths))
        sizes = [len(values) for _, _, values, _ in found]
        middle_sizes = [len(values) for _, values, _ in middles]
        return Rows(
            np.repeat(np.array([c for c, _, _, _ in found], np.int64), sizes),
            np.repeat(np.array([s for _, s, _, _ in found], np.int64), sizes),
            np.concatenate([np.empty(0), *(values for _, _, values, _ in found)]),
            np.repeat(np.array([width for _, _, _, width in found], np.float64), sizes),
            np.array(stages, np.int64),
            np.repeat(np.array([c for c, _, _ in middles], np.int64), middle_sizes),
            np.concatenate([values for _, values, _ in middles]),
            np.repeat(np.array([widths for _, _, widths in middles], np.float64).T, middle_sizes, axis=1),
        )


def _scaled(singular: Floats, energy: float) -> Floats:
    """Squares of singular values, scaled to the energy that the whole chain has."""
    squares: Floats = np.square(singular)
    return squares * (energy / max(float(squares.sum()), float(np.finfo(np.float64).tiny)))


def _falling(energy: Floats, numbers: Whole) -> list[float]:
    """energy / numbers, with neighbours pooled wherever it would rise (pool adjacent violators)."""
    pools: list[list[float]] = []
    for e, n in zip(energy.tolist(), numbers.tolist(), strict=True):
        pools.append([e, n, 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] <= pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return [e / max(n, 1) for e, n, count in pools for _ in range(int(count))]
