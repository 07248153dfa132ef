"""Singular directions that any machine finds again: float64, no randomness, fixed signs, small ones as zeros."""

from __future__ import annotations

import scipy.linalg
import torch
from torch import Tensor

from adaptzip.core.basis import ModuleBasis
from adaptzip.core.linalg import canonical_signs

AT_ONCE = 4
"""Dense matrices decomposed side by side: each takes a gigabyte in the widest layers of a 7B model."""
SMALLEST = 1e-6
"""Directions whose singular value is below this share of the largest are zeros: rounding decides where they point."""


def dense_directions(matrix: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular directions of a dense matrix, from the eigenvectors of its smaller Gram matrix.

    The eigenvectors only choose the subspace; singular vectors are those of the matrix on it, so that their accuracy
    does not suffer from the squares in the Gram matrix. Signs are those of `adaptzip.core.linalg.canonical_signs`.

    Args:
        matrix: (m, n), any real dtype; computed in float64.
        size: most directions, at least 1.

    Returns:
        U (m, k), S (k,) falling and V (n, k), float64, with k = min(size, m, n); columns of U and V whose singular
        value is below `SMALLEST` of the largest are zero.
    """
    wide = matrix.detach().to("cpu", torch.float64)
    if wide.shape[0] < wide.shape[1]:
        V, S, U = _tall_directions(wide.T, size)
    else:
        U, S, V = _tall_directions(wide, size)
    U, Vt = canonical_signs(U, V.T)
    return _without_small(U, S), S, _without_small(Vt.T, S)


def stacked_directions(columns: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The principal directions of the columns of a matrix (m, c): U (m, k) and S (k,), float64, k = min(size, m, c).

    Signs and small directions as in `dense_directions`.
    """
    Q, R = torch.linalg.qr(columns.double())
    u, S, _ = torch.linalg.svd(R, full_matrices=False)
    U = (Q @ u)[:, :size]
    U, _ = canonical_signs(U, U.T)
    return _without_small(U, S[:size]), S[:size]


def pair(U: Tensor, V: Tensor) -> ModuleBasis:
    """A module's basis in float32, the shorter side filled up with zero columns, zeros at both ends cut."""
    size = max(_count(U), _count(V))
    return ModuleBasis(*(_padded(side, size).float().contiguous() for side in (U, V)))


def _tall_directions(matrix: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V of a matrix of at least as many rows as columns."""
    width = matrix.shape[1]
    count = min(size, width)
    # One column more than wanted, so that the last direction is told apart from its neighbour on the matrix itself.
    # LAPACK's partial eigensolver is four times as fast as the whole decomposition.
    wanted = (max(0, width - count - 1), width - 1)
    _, vectors = scipy.linalg.eigh((matrix.T @ matrix).numpy(), subset_by_index=wanted, check_finite=False)
    chosen = torch.from_numpy(vectors).flip(1)
    U, S, rotation = torch.linalg.svd(matrix @ chosen, full_matrices=False)
    V = chosen @ rotation.T
    return U[:, :count], S[:count], V[:, :count]


def _without_small(vectors: Tensor, S: Tensor) -> Tensor:
    kept = SMALLEST * S[:1] < S
    return vectors * kept


def _count(side: Tensor) -> int:
    """Columns up to the last that is not zero, at least one."""
    used = side.abs().amax(0) > 0
    return max(1, int(used.sum()))


def _padded(side: Tensor, size: int) -> Tensor:
    missing = max(0, size - side.shape[1])
    return torch.nn.functional.pad(side[:, :size], (0, missing))
