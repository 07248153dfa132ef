"""How ranks and the classes of rows are coded: under models that learn from those before them in the bit string.

Models are whole weights (formats/adz-1.md, 5.2) that change after each symbol, so that every decoder follows them
exactly. A bit string that holds many modules is coded under one set of them throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from constriction import stream

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.tables import NOTHING, Class

_SPAN = tables.LARGEST_SCALE_INDEX
FIRST_SCALE = 15
SHAPES = (2, 4, 10, 32, 12, 4, 1)
"""Weights of the shapes and of a row of zeros, at first."""
SHAPE_STEP, SHAPES_MOST = 32, 1024
"""What a weight of a shape grows by, and the sum from which all are halved."""
FIRST_SPREAD = (2, 1)
"""Sum and count of differences of scales, at first."""
_RANKS = (4, 4, 2)
"""Weights of rank 0, the rank expected, and any other, at first."""
SCALES_KEPT = 20


Coding: TypeAlias = Callable[[Any, int | None], int]
"""Codes a symbol under a model: notes the one that is given, or finds it out."""


@dataclass
class _Counts:
    """Weights that grow by `step` with each use, and are halved where their sum exceeds `most`."""

    weights: list[int]
    step: int
    most: int

    def code(self, code: Coding, symbol: int | None) -> int:
        found = code(weighted(tuple(self.weights)), symbol)
        self.weights[found] += self.step
        if sum(self.weights) > self.most:
            self.weights = [(weight + 1) // 2 for weight in self.weights]
        return found


@dataclass
class _Spread:
    """A geometric distribution of differences, whose ratio follows the mean of their sizes."""

    total: int = FIRST_SPREAD[0]
    count: int = FIRST_SPREAD[1]

    def code(self, code: Coding, difference: int | None) -> int:
        symbol = None if difference is None else difference + _SPAN
        found = code(_differences(self.total, self.count), symbol) - _SPAN
        self.total, self.count = self.total + abs(found), self.count + 1
        if self.count > SCALES_KEPT:
            self.total, self.count = (self.total + 1) // 2, (self.count + 1) // 2
        return found


@dataclass
class Contexts:
    """What is remembered along a bit string; modules of one `kind` are expected to be alike.

    Attributes:
        shapes: by tensor, and whether the row before was of zeros.
        spreads: by tensor, and whether the row is its first.
        starts: scales of the first row of each tensor, in the last module of a kind; of any under None.
        zero: whether the last module of a kind was zero.
        ranks: the last rank of a kind that was not 0; of any under None.
    """

    shapes: dict[tuple[int, bool], _Counts] = field(default_factory=dict)
    spreads: dict[tuple[int, bool], _Spread] = field(default_factory=dict)
    starts: dict[Hashable, list[int]] = field(default_factory=dict)
    zero: dict[Hashable, bool] = field(default_factory=dict)
    ranks: dict[Hashable, int] = field(default_factory=dict)
    choices: dict[bool | None, _Counts] = field(default_factory=dict)

    def rank(self, code: Coding, kind: Hashable, max_rank: int, given: int | None = None) -> int:
        """Code a module's rank, 0 included."""
        expected = self.ranks.get(kind, self.ranks.get(None, 1))
        counts = self.choices.setdefault(self.zero.get(kind), _Counts(list(_RANKS), 8, 128))
        choice = counts.code(code, None if given is None else 0 if given == 0 else 1 if given == expected else 2)
        rank = (0, expected, 0)[choice]
        if choice == 2:
            rank = 1 + (code(uniform(max_rank), None if given is None else given - 1) if max_rank > 1 else 0)
        self.zero[kind] = rank == 0
        if rank:
            self.ranks[kind] = self.ranks[None] = rank
        return rank

    def classes(
        self, code: Coding, kind: Hashable, sizes: Sequence[tuple[int, int]], given: Sequence[Sequence[Class]] = ()
    ) -> list[tuple[Class, ...]]:
        """Code the classes of a module's rows.

        Args:
            sizes: rows and width of each tensor of real numbers.
            given: what to code; nothing where it is decoded.
        """
        before = self.starts.get(kind) or self.starts.get(None) or []
        scales: list[list[int]] = []
        found = []
        for tensor, (rows, _) in enumerate(sizes):
            scales.append([])
            classes: list[Class] = []
            for row in range(rows):
                expected = min(max(_expected(scales, before, sizes, row), 0), _SPAN)
                zeros = bool(classes) and classes[-1].shape == NOTHING
                counts = self.shapes.setdefault((tensor, zeros), _Counts(list(SHAPES), SHAPE_STEP, SHAPES_MOST))
                shape = counts.code(code, given[tensor][row].shape if given else None)
                if shape == NOTHING:
                    scales[tensor].append(expected)
                    classes.append(Class(NOTHING, 0))
                    continue
                spread = self.spreads.setdefault((tensor, row == 0), _Spread())
                scale = expected + spread.code(code, given[tensor][row].scale - expected if given else None)
                scales[tensor].append(min(max(scale, 0), _SPAN))
                classes.append(Class(shape, scales[tensor][-1]))
            found.append(tuple(classes))
        if any(scales):
            self.starts[kind] = self.starts[None] = [(own or scales[0] or [FIRST_SCALE])[0] for own in scales]
        return found


def _expected(
    scales: Sequence[Sequence[int]], before: Sequence[int], sizes: Sequence[tuple[int, int]], row: int
) -> int:
    """The scale of a row of the last tensor in `scales`, from those coded already.

    Rows of the first tensor are expected to repeat the row before, rows of a later one to move as the first's did.
    The first row of a tensor lies beside the first tensor's as it did in the module before; without one, as if both
    rows were of one length.
    """
    tensor = len(scales) - 1
    first, own = scales[0], scales[tensor]
    if row:
        return own[row - 1] + (first[row] - first[row - 1] if tensor and row < len(first) else 0)
    if tensor == 0:
        return before[0] if before else FIRST_SCALE
    if not first:
        return FIRST_SCALE
    if tensor < len(before):
        return first[0] + before[tensor] - before[0]
    return first[0] + (sixths(sizes[0][1]) - sixths(sizes[tensor][1])) // 2


@lru_cache(maxsize=4096)
def sixths(width: int) -> int:
    """6 log2 of a width, rounded down, plus 1: the binary digits of its sixth power."""
    return (width**6).bit_length()


def weighted(weights: tuple[int, ...]) -> Any:
    """The model of whole weights."""
    return stream.model.Categorical(np.array(weights, dtype=np.float64), perfect=False)


def uniform(size: int) -> Any:
    """The model of numbers below `size`, at least 2."""
    return stream.model.Uniform(size)


@lru_cache(maxsize=1024)
def _differences(total: int, count: int) -> Any:
    """Differences of scale indices: from weight 2^20 falling by total / (total + count), rounded down, plus 16."""
    falling = list(accumulate(range(_SPAN), lambda weight, _: weight * total // (total + count), initial=2**20))
    return weighted(tuple(weight + 16 for weight in (*falling[:0:-1], *falling)))
