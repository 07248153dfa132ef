"""The classes of rows: choosing the cheapest, and coding which was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from adaptzip.adz.coding import tables
from adaptzip.adz.coding.tables import LEVELS, Class
from adaptzip.adz.coding.trellis import Quantised

_SHAPE_FREQUENCIES = (2, 4, 10, 32, 12, 4)
_FIRST_SCALE = 15
_SPAN = tables.LARGEST_SCALE_INDEX


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


def _predictions(known: Sequence[Sequence[int]], tensor: int, row: int) -> int:
    """Expected scale index of a row from those decoded before it.

    Rows of the first tensor are expected to repeat the row before; rows of a later one to move as the first's did.
    """
    current = known[tensor]
    if tensor == 0 or row >= len(known[0]):
        return current[row - 1] if row else _FIRST_SCALE
    first = known[0]
    guess = current[row - 1] + first[row] - first[row - 1] if row else first[0]
    return min(max(guess, 0), _SPAN)


def encode_classes(coder: Any, classes: Sequence[Sequence[Class]]) -> None:
    scales = [[c.scale for c in rows] for rows in classes]
    differences, shapes = [], []
    for tensor, rows in enumerate(classes):
        for row, c in enumerate(rows):
            differences.append(c.scale - _predictions(scales, tensor, row) + _SPAN)
            shapes.append(c.shape)
    coder.encode_reverse(np.array(shapes, dtype=np.int32), _shape_model())
    coder.encode_reverse(np.array(differences, dtype=np.int32), _scale_model())


def decode_classes(coder: Any, rows: Sequence[int]) -> list[tuple[Class, ...]]:
    differences = iter(coder.decode(_scale_model(), sum(rows)).tolist())
    shapes = iter(coder.decode(_shape_model(), sum(rows)).tolist())
    scales: list[list[int]] = []
    for tensor, count in enumerate(rows):
        scales.append([])
        for row in range(count):
            scale = _predictions(scales, tensor, row) + next(differences) - _SPAN
            scales[tensor].append(min(max(scale, 0), _SPAN))
    return [tuple(Class(next(shapes), scale) for scale in tensor) for tensor in scales]


@cache
def _scale_model() -> Any:
    """Differences of scale indices: weight 2^20 * (3/4)^|d|, rounded down, plus 1."""
    distance = [abs(d) for d in range(-_SPAN, _SPAN + 1)]
    return _from_weights([2**20 * 3**d // 4**d + 1 for d in distance])


@cache
def _shape_model() -> Any:
    return _from_weights(_SHAPE_FREQUENCIES)


def _from_weights(weights: Sequence[int]) -> Any:
    return stream.model.Categorical(np.array(weights, dtype=np.float64), perfect=False)
