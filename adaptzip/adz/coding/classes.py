"""The classes of rows: choosing the cheapest, by costs that are whole numbers, so that sums are the same everywhere."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.tables import LEVELS, NOTHING, Class
from adaptzip.adz.coding.trellis import Quantised
from adaptzip.core import compiled

_UNIT = 2**16
"""Parts of a bit that costs are counted in."""


def choose_classes(quantised: Quantised, scales: NDArray[np.int64]) -> tuple[Class, ...]:
    """The cheapest class for each row's levels.

    Args:
        scales: (rows,) scale index of each row's deviation; a row beyond the tables keeps its scale and takes the
            cheapest shape.
    """
    if compiled.worthwhile(quantised.levels.size):
        return _choose_compiled(quantised, scales)
    return choose_interpreted(quantised, scales)


def _choose_compiled(quantised: Quantised, scales: NDArray[np.int64]) -> tuple[Class, ...]:
    from adaptzip.adz.coding.kernels.classes import choose

    shapes, chosen = np.empty_like(scales), np.empty_like(scales)
    choose(quantised.levels, quantised.quantiser, scales, tables.raw_bits(scales), _costs(), shapes, chosen)
    return tuple(Class(*pair) for pair in zip(shapes.tolist(), chosen.tolist(), strict=True))


@cache
def _costs() -> NDArray[np.int64]:
    """(2 * (LEVELS + 2), tables): cost of |k| under quantiser 0 and 1."""
    bits = tables.bits()[:-1].astype(np.float64)
    return np.ascontiguousarray(np.rint(bits * _UNIT).astype(np.int64).reshape(len(bits), -1).T)


def choose_interpreted(quantised: Quantised, scales: NDArray[np.int64]) -> tuple[Class, ...]:
    """`choose_classes` without numba."""
    return tuple(
        _cheapest(levels, quantiser, int(scale))
        for levels, quantiser, scale in zip(quantised.levels, quantised.quantiser, scales, strict=True)
    )


def _cheapest(levels: NDArray[np.int32], quantiser: NDArray[np.uint8], scale: int) -> Class:
    if not levels.any():
        return Class(NOTHING, 0)
    raw = Class(0, scale).raw_bits
    high = np.minimum(np.abs((levels + (1 << raw >> 1)) >> raw), LEVELS + 1)
    columns = LEVELS + 2
    index = high + columns * (0 if raw else quantiser.astype(np.int32))
    cost = (np.bincount(index, minlength=2 * columns)[: 2 * columns] @ _costs()).reshape(len(tables.SHAPES), -1)
    if raw:
        column = scale - tables.STEPS_PER_OCTAVE * raw
        return Class(int(cost[:, column].argmin()), scale)
    shape, best = np.unravel_index(int(cost.argmin()), cost.shape)
    return Class(int(shape), int(best))
