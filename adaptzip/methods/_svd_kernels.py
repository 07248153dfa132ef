"""What `adaptzip.methods._svd_rows` has compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.core.compiled import compiled

_TOGETHER = 256
"""Rows of the result that are filled together: they stay in the nearest cache."""


@compiled
def columns(U: Any, found: Any) -> None:
    """Put rows (rank, out) float32, made of unit length, into `found` (out, rank) as columns."""
    rank, out = U.shape
    norms = np.ones(rank, np.float32)
    for row in range(rank):
        total = 0.0
        for i in range(out):
            total += np.float64(U[row, i]) * np.float64(U[row, i])
        if total > 0:
            norms[row] = np.float32(np.sqrt(total))
    for first in range(0, out, _TOGETHER):
        last = min(first + _TOGETHER, out)
        for row in range(rank):
            norm = norms[row]
            for i in range(first, last):
                found[i, row] = U[row, i] / norm
