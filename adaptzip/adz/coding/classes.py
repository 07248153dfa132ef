"""The classes of rows: choosing the cheapest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.tables import LEVELS, NOTHING, Class
from adaptzip.adz.coding.trellis import Quantised


def choose_classes(quantised: Quantised, scales: NDArray[np.int64]) -> tuple[Class, ...]:
    """The cheapest class for each row's levels.

    Args:
        scales: (rows,) scale index of each row's deviation; a row beyond the tables keeps its scale and takes the
            cheapest shape.
    """
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
    histogram = np.bincount(index, minlength=2 * columns)[: 2 * columns].astype(np.float32)
    cost = (tables.bits()[:-1].reshape(-1, 2 * columns) @ histogram).reshape(len(tables.SHAPES), -1)
    if raw:
        column = scale - tables.STEPS_PER_OCTAVE * raw
        return Class(int(cost[:, column].argmin()), scale)
    shape, best = np.unravel_index(int(cost.argmin()), cost.shape)
    return Class(int(shape), int(best))
