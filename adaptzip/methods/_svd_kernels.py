"""What `adaptzip.methods._svd_rows` has compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.core.compiled import compiled


@compiled
def _norm(own: Any) -> Any:
    """Length of a row, 1 for zeros. Its squares add up exactly, so that four sums side by side are the same."""
    a = b = c = d = 0.0
    fours = len(own) // 4 * 4
    for i in range(0, fours, 4):
        w, x, y, z = np.float64(own[i]), np.float64(own[i + 1]), np.float64(own[i + 2]), np.float64(own[i + 3])
        a, b, c, d = a + w * w, b + x * x, c + y * y, d + z * z
    for i in range(fours, len(own)):
        a += np.float64(own[i]) * np.float64(own[i])
    return np.float32(np.sqrt(a + b + c + d)) if a + b + c + d > 0 else np.float32(1)


@compiled
def columns(U: Any, found: Any) -> None:
    """Put rows (rank, out) float32, made of unit length, into `found` (out, rank) as columns."""
    rank, out = U.shape
    norms = np.empty(rank, np.float32)
    for row in range(rank):
        norms[row] = _norm(U[row])
    for i in range(out):
        for row in range(rank):
            found[i, row] = U[row, i] / norms[row]
