"""Principal directions of columns that come a few at a time, in memory that does not grow with their number."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.bases.directions import pair, stacked_directions
from adaptzip.core.basis import ModuleBasis

Components = tuple[Tensor, Tensor, Tensor]
"""U (out, k), S (k,) and V (in, k) of one update, float64."""
_KEPT, _MOST = 2, 4
"""Columns that a sketch is cut to, and that it may have first, as multiples of the directions wanted: what is cut off
the second half has cost 10^-6 of the energy (measured on 40 adapters)."""


class ModuleSketch:
    """The directions that hold most of one module's updates, given one after another; it remembers a sketch of them.

    The result depends on the order, and on nothing else. Up to `_MOST` times as many columns as directions wanted are
    kept as they are, so that of few updates nothing is lost.
    """

    def __init__(self, size: int | None) -> None:
        self._sides = (_Side(size), _Side(size))

    @property
    def shape(self) -> tuple[int, int] | None:
        """(out, in) of the updates; None before the first."""
        out, width = (side.length for side in self._sides)
        return None if out is None or width is None else (out, width)

    def add(self, update: Components) -> None:
        """One update more."""
        U, S, V = update
        for side, vectors in zip(self._sides, (U, V), strict=True):
            side.add(vectors * S)

    def directions(self) -> ModuleBasis:
        """The principal directions of both sides; there has to be an update."""
        return pair(*(side.directions() for side in self._sides))


class _Side:
    """Columns (m, c) of one side."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._columns: list[Tensor] = []
        self._count = 0
        self.length: int | None = None

    def add(self, columns: Tensor) -> None:
        self.length = len(columns)
        self._columns.append(columns)
        self._count += columns.shape[1]
        if self._size is not None and self._count > _MOST * self._size:
            U, S = stacked_directions(torch.cat(self._columns, dim=1), _KEPT * self._size)
            self._columns, self._count = [U * S], U.shape[1]

    def directions(self) -> Tensor:
        columns = torch.cat(self._columns, dim=1)
        return stacked_directions(columns, columns.shape[1] if self._size is None else self._size)[0]
