"""What bits are held to be worth, wherever rate is weighed against error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BIT_WEIGHT = 0.3
"""Squared error, in units of the step squared, that one bit must buy (best by measurement: docs/decisions/0002)."""

ROW_BITS = 10.0
"""What a row's class takes, about."""


def falling(energy: NDArray[np.float64], sizes: NDArray[Any]) -> list[float]:
    """energy / sizes, with neighbours pooled wherever it would rise (pool adjacent violators)."""
    pools: list[list[float]] = []
    for e, n in zip(energy.tolist(), sizes.tolist(), strict=True):
        pools.append([e, n, 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] < pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return [e / n for e, n, count in pools for _ in range(int(count))]
