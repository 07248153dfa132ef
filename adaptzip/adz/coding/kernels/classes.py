"""The choice of `adaptzip.adz.coding.classes`, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.adz.coding.tables import LEVELS, NOTHING, SCALES, SHAPES, STEPS_PER_OCTAVE
from adaptzip.core.compiled import compiled

_COLUMNS = LEVELS + 2
_SHAPES = len(SHAPES)


@compiled
def choose(levels: Any, quantiser: Any, scales: Any, raw: Any, costs: Any, shapes: Any, chosen: Any) -> None:
    """Put the shape and scale of each row's cheapest class into `shapes` and `chosen`, (rows,) int64 like `scales`.

    Args:
        raw: (rows,) int64, raw bits that follow from the scales.
        costs: (2 * columns, tables) int64, cost of each symbol, for each quantiser.
    """
    totals = np.empty(costs.shape[1], np.int64)
    for row in range(levels.shape[0]):
        histogram = np.zeros(costs.shape[0], np.int64)
        half, zeros = (1 << raw[row]) >> 1, True
        for i in range(levels.shape[1]):
            level = np.int64(levels[row, i])
            zeros &= level == 0
            q = 0 if raw[row] else np.int64(quantiser[row, i])
            histogram[q * _COLUMNS + min(abs((level + half) >> raw[row]), LEVELS + 1)] += 1
        if zeros:
            shapes[row], chosen[row] = NOTHING, 0
            continue
        totals[:] = 0
        for column in range(costs.shape[0]):
            if histogram[column]:
                totals += histogram[column] * costs[column]
        if raw[row]:
            shapes[row] = np.argmin(totals.reshape(_SHAPES, SCALES)[:, scales[row] - STEPS_PER_OCTAVE * raw[row]])
            chosen[row] = scales[row]
        else:
            shapes[row], chosen[row] = divmod(np.argmin(totals), SCALES)
