"""The probability tables of the format: integers in `tables.bin`, the same for every encoder and decoder.

A class is a scale and a shape. Scales form a geometric grid, six to the octave, in units of the step; shapes are
those of the generalised Gaussian distribution. formats/make_tables.py made the file, by running the quantiser over
random rows of every class; formats/adz-1.md prints its sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import gamma, sqrt

import numpy as np
from numpy.typing import NDArray

SHAPES = (0.6, 1.0, 1.5, 2.0, 3.0, 8.0)
"""Exponents of the generalised Gaussian: 1 is Laplace, 2 is Gaussian, 8 is almost uniform."""
SCALES = 36
"""Scales that have a table; rows of larger scale are coded with raw low bits (see `Class`)."""
STEPS_PER_OCTAVE = 6
SMALLEST_SCALE = 0.25
NOTHING = len(SHAPES)
"""The shape of a row whose numbers are all 0: it has scale 0, and nothing else is coded of it."""
LEVELS = 31
"""Largest |level| that has a symbol of its own; larger ones are escapes."""
TOTAL = 65536
"""Sum of the frequencies of one table."""
LARGEST_SCALE_INDEX = SCALES - 1 + STEPS_PER_OCTAVE * 15
"""A row of this scale carries 15 raw low bits in each level."""


@dataclass(frozen=True)
class Class:
    """The model of one row.

    Attributes:
        shape: index into `SHAPES`, or `NOTHING`.
        scale: index of the row's standard deviation, `SMALLEST_SCALE * 2 ** (scale / STEPS_PER_OCTAVE)` steps.
    """

    shape: int
    scale: int

    @property
    def raw_bits(self) -> int:
        """Low bits of each level that are stored as they are, because the density is flat across them."""
        return max(0, -(-(self.scale - SCALES + 1) // STEPS_PER_OCTAVE))

    @property
    def table(self) -> int:
        """Index of the class's table."""
        return self.shape * SCALES + self.scale - STEPS_PER_OCTAVE * self.raw_bits


def raw_bits(scales: NDArray[np.int64]) -> NDArray[np.int64]:
    """`Class.raw_bits` of many scales."""
    return np.maximum(0, -(-(scales - SCALES + 1) // STEPS_PER_OCTAVE))


@cache
def frequencies() -> NDArray[np.uint16]:
    """(tables, 2, LEVELS + 2): frequency of |k| = 0..LEVELS (for k > 0, of either sign) and of an escape."""
    data = files("adaptzip.adz.coding").joinpath("tables.bin").read_bytes()
    return np.frombuffer(data, dtype="<u2").reshape(len(SHAPES) * SCALES, 2, LEVELS + 2)


@cache
def bits() -> NDArray[np.float32]:
    """(tables + 1, 2, LEVELS + 2): cost in bits of each symbol, sign included; the last row costs nothing.

    The last row is for rows whose levels are large: neighbouring levels then cost the same.
    """
    cost = -np.log2(frequencies().astype(np.float64) / TOTAL)
    return np.concatenate([cost, np.zeros_like(cost[:1])]).astype(np.float32)


@cache
def surest() -> Class:
    """The class of the least scale under which zeros are cheapest."""
    return Class(int(bits()[: SCALES * len(SHAPES) : SCALES, :, 0].sum(1).argmin()), 0)


def scale_index(deviation: NDArray[np.float64]) -> NDArray[np.int64]:
    """Nearest scale index of standard deviations in units of the step."""
    with np.errstate(divide="ignore"):
        index = np.round(np.log2(deviation / SMALLEST_SCALE) * STEPS_PER_OCTAVE)
    return np.clip(index, 0, LARGEST_SCALE_INDEX).astype(np.int64)


def shape_index(ratio: NDArray[np.float64]) -> NDArray[np.int64]:
    """Nearest shape of rows whose mean magnitude is `ratio` of their standard deviation."""
    expected = np.array([gamma(2 / b) / sqrt(gamma(1 / b) * gamma(3 / b)) for b in SHAPES])
    nearest: NDArray[np.int64] = np.abs(ratio[..., None] - expected).argmin(-1)
    return nearest
