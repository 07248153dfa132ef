"""What `svd` foresees of many modules at once: their components side by side in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adaptzip.core.foresight import Ranks, Values
from adaptzip.core.method import FrameShape
from adaptzip.core.rates import BIT_WEIGHT, ROW_BITS
from adaptzip.methods._rates import row_costs

_ZEROS = 0.1
"""What the class of a row of zeros takes, as a share of another's."""
Shares = Mapping[int, NDArray[np.float64]]
"""Of each component the share of its energy outside a frame, (k,), by the frame's directions."""


@dataclass(frozen=True, eq=False)
class SvdProfile:
    """Singular values (k,) falling, float64, and the lengths of u and v.

    Attributes:
        stretch: (k,) lengths of the columns of V, 1 without moments.
        frame: directions of the frame, 0 without one.
        outside: (k,) share of the energy of each column of V that lies outside the frame; None without one.
        out_outside: alike of U, and of the frame of outputs.
        cuts: both, inputs' and outputs', by how many of the frame's first directions are taken.
    """

    singular: NDArray[np.float64]
    out: int
    width: int
    stretch: NDArray[np.float64] | None = None
    frame: int = 0
    outside: NDArray[np.float64] | None = None
    out_outside: NDArray[np.float64] | None = None
    cuts: tuple[Shares, Shares] = ({}, {})

    def narrower(self) -> dict[FrameShape, SvdProfile]:
        """The same module in the first directions of its frame, on one side or both."""
        inputs, outputs = self.cuts
        bare = replace(self, outside=None, out_outside=None, cuts=({}, {}))
        found = {FrameShape(1, size): replace(bare, frame=size, outside=share) for size, share in inputs.items()}
        for size, share in outputs.items():
            found[FrameShape(2, size)] = replace(found[FrameShape(1, size)], out_outside=share)
        return found

    @property
    def energy(self) -> float:
        return float(np.square(self.singular).sum())

    @property
    def scores(self) -> list[float]:
        scores: list[float] = (np.square(self.singular) / (self.out + self.width)).tolist()
        return scores


@dataclass(frozen=True, eq=False)
class _Table:
    """Components of N modules, (N, k), filled up with zeros, and what they share, (N, 1).

    Attributes:
        length: of the columns of V.
        outside, out_outside: share of a column's energy outside the frame, 1 without one.
        frame, out_frame: directions of the frame, 0 without one.
    """

    singular: Values
    length: Values
    outside: Values
    out_outside: Values
    out: Values
    width: Values
    frame: Values
    out_frame: Values

    @classmethod
    def of(cls, profiles: Sequence[SvdProfile]) -> _Table:
        most = max((len(profile.singular) for profile in profiles), default=0)

        def filled(rows: Sequence[NDArray[np.float64] | None], missing: float) -> Values:
            table = np.full((len(profiles), most), missing)
            for place, row in enumerate(rows):
                if row is not None:
                    table[place, : len(row)] = row
            return table

        def column(values: Sequence[int]) -> Values:
            return np.array(values, np.float64)[:, None]

        return cls(
            filled([p.singular for p in profiles], 0.0),
            filled([p.stretch for p in profiles], 1.0),
            filled([p.outside for p in profiles], 1.0),
            filled([p.out_outside for p in profiles], 1.0),
            column([p.out for p in profiles]),
            column([p.width for p in profiles]),
            column([p.frame for p in profiles]),
            column([p.frame if p.out_outside is not None else 0 for p in profiles]),
        )

    def take(self, rows: Ranks) -> _Table:
        return _Table(*(getattr(self, part.name)[rows] for part in fields(self)))

    def costs(self, step: float) -> tuple[Values, Values]:
        """Expected bits and squared error of every component, both (N, k)."""
        long = self.singular * self.length
        out_bits, out_rest = _inside(self.singular / step, self.out_outside, self.out_frame)
        bits, rest = _inside(long / step, self.outside, self.frame)
        out_rate, out_error = row_costs(self.singular / np.sqrt(self.out) / step * np.sqrt(out_rest))
        rate, error = row_costs(long * np.sqrt(rest / self.width) / step)
        # An error spread evenly costs the same with moments, and never more than the whole component.
        kept = (1 - np.minimum(out_rest * out_error, 1.0)) * (1 - np.minimum(rest * error * self.length**2, 1.0))
        bits += _row(self.width * rate, self.frame)
        out_bits += _row(self.out * out_rate, self.out_frame)
        return bits + out_bits, np.square(self.singular) * (1 - kept)


def _row(bits: Values, frame: Values) -> Values:
    """Expected bits of rows with their classes; a frame may leave nothing of a row, which is told in a bit or so."""
    return bits + ROW_BITS * np.where(frame > 0, np.minimum(_ZEROS + bits / ROW_BITS, 1.0), 1.0)


def _inside(lengths: Values, outside: Values, frame: Values) -> tuple[Values, Values]:
    """Expected bits of coordinates in frames, and what share of the energy these leave to the rest; both (N, k).

    Args:
        lengths: of the rows, in steps.
        outside, frame: as `_Table` has them.
    """
    bits, rest = np.zeros_like(lengths), np.ones_like(lengths)
    rows = np.flatnonzero(frame[:, 0] > 0)
    if len(rows):
        size, left = frame[rows], outside[rows]
        rate, lost = row_costs(lengths[rows] * np.sqrt((1 - left) / size))
        bits[rows] = ROW_BITS + size * rate
        rest[rows] = left + (1 - left) * np.minimum(lost, 1.0)
    return bits, rest


class SvdRates:
    """Ranks and predictions of modules, all in one go; remembers the costs at the step that it was last asked about."""

    def __init__(self, profiles: Sequence[SvdProfile]) -> None:
        self._profiles = profiles
        self._table = _Table.of(profiles)
        # With moments or a frame a component may cost more than the one after it.
        self._uneven = np.array([p.stretch is not None or p.outside is not None for p in profiles], bool)
        squares = np.square(self._table.singular)
        self._left = _from_nothing(squares[:, ::-1])[:, ::-1]
        self._last: tuple[float, tuple[Values, Values]] | None = None

    def ranks(self, step: float) -> Ranks:
        """Components that save more squared error than their bits are worth."""
        worth = self.worth(step)
        first: Ranks = np.cumprod(worth > 0, axis=1, dtype=np.int64).sum(1)
        if self._uneven.any():
            first[self._uneven] = np.argmax(_from_nothing(worth[self._uneven]), axis=1)
        return first

    def predict(self, step: float, ranks: Ranks, rows: Ranks | None = None) -> tuple[Values, Values]:
        bits, error = self._costs(step, rows)
        left = self._left if rows is None else self._left[rows]
        places = np.arange(len(ranks)), ranks
        return _from_nothing(bits)[places], _from_nothing(error)[places] + left[places]

    def frame_gains(self, step: float, most: Ranks | None = None) -> Values:
        kept = [rates.saved(step, most) for rates in (self, self._plain)]
        gains: Values = (kept[0] - kept[1]) / (BIT_WEIGHT * step**2)
        return np.where(self._table.frame[:, 0] > 0, gains, 0.0)

    def saved(self, step: float, most: Ranks | None) -> Values:
        """Squared error that each module saves at the rank worth coding, or at `most`, less what bits are worth."""
        ranks = self.ranks(step) if most is None else np.minimum(self.ranks(step), most)
        saved: Values = _from_nothing(self.worth(step))[np.arange(len(ranks)), ranks]
        return saved

    def worth(self, step: float) -> Values:
        """Squared error that each component saves, less what its bits are held to be worth; (N, k)."""
        bits, error = self._costs(step, None)
        worth: Values = np.square(self._table.singular) - error - BIT_WEIGHT * step**2 * bits
        return worth

    @cached_property
    def _plain(self) -> SvdRates:
        """The same modules without their frames."""
        return SvdRates([replace(profile, frame=0, outside=None, out_outside=None) for profile in self._profiles])

    def _costs(self, step: float, rows: Ranks | None) -> tuple[Values, Values]:
        if self._last is not None and self._last[0] == step:
            bits, error = self._last[1]
            return (bits, error) if rows is None else (bits[rows], error[rows])
        if rows is not None:
            return self._table.take(rows).costs(step)
        self._last = (step, self._table.costs(step))
        return self._last[1]


def _from_nothing(values: Values) -> Values:
    """Sums of the first 0, 1, ..., k of each row, (N, k + 1)."""
    return np.concatenate([np.zeros((len(values), 1)), values.cumsum(1)], axis=1)
