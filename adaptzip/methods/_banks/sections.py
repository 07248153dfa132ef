"""What a bank is searched by: products of its vectors for mixtures, a tree for short vectors that stand alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LEAST = 16
"""A tree is faster than products with all vectors from so many on, doubled for each number of a vector."""
_LEAF = 32
"""Vectors that a tree does not part any more."""


@dataclass(frozen=True, eq=False)
class Section:
    """The first numbers of a bank's vectors.

    Attributes:
        vectors: (h, length).
        gram: (h, h), their products; None where vectors stand alone.
        tree: of the vectors, where pieces are looked for in one.
    """

    vectors: Tensor
    gram: Tensor | None
    tree: Any | None


Sections = Mapping[int, Section]
"""Sections by length."""


def sections(bank: Tensor, widths: Iterable[int], k: int) -> Sections:
    """The sections of a bank (h, length) that stand for rows of these widths in mixtures of k: whole, and cut."""
    sizes = sorted({size for width in widths for size in _sizes(bank.shape[1], width)})
    return {size: _section(bank[:, :size], k) for size in sizes}


def _sizes(length: int, width: int) -> set[int]:
    """Lengths of the pieces of a row."""
    return {size for size in (length if width >= length else 0, width % length) if size}


def _section(vectors: Tensor, k: int) -> Section:
    if k > 1:
        return Section(vectors, vectors @ vectors.T, None)
    if vectors.device.type != "cpu" or len(vectors) < _LEAST << vectors.shape[1]:
        return Section(vectors, None, None)
    from scipy.spatial import cKDTree

    return Section(vectors, None, cKDTree(vectors.numpy(), leafsize=_LEAF))


def nearest_in(tree: Any, pieces: Tensor) -> Tensor:
    """Places (n,) of the vectors in a tree that are nearest to pieces (n, length), by distances in float64."""
    # What overflowed is far from all of them.
    return torch.from_numpy(tree.query(pieces.nan_to_num().numpy())[1])


class LastSections:
    """Sections of the bank that was asked for last; it remembers them, so that all modules of a step share them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stored: Tensor | None = None
        self._bank = torch.zeros(0)
        self._found: dict[int, Section] = {}

    def of(self, stored: Tensor, scale: float, width: int, k: int) -> tuple[Tensor, Sections]:
        """A stored bank divided by its scale, and its sections for rows of a width."""
        with self._lock:
            if self._stored is not stored:
                self._stored, self._bank, self._found = stored, stored / scale, {}
            for size in _sizes(self._bank.shape[1], width) - self._found.keys():
                self._found[size] = _section(self._bank[:, :size], k)
            return self._bank, dict(self._found)
