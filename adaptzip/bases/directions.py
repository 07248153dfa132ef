"""Singular directions that any machine finds again: float64, nothing left to chance, fixed signs, small ones zero."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from adaptzip.bases.krylov import RESIDUAL, is_few, leading_directions, times, turned_times
from adaptzip.core.basis import ModuleBasis
from adaptzip.core.linalg import canonical_signs, leading_eigen

AT_ONCE = 4
"""Dense matrices decomposed side by side: each takes a gigabyte in the widest layers of a 7B model."""
SMALLEST = 1e-6
"""Directions whose singular value is below this share of the largest are zeros: rounding decides where they point."""

_log = logging.getLogger(__name__)


def dense_directions(matrix: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular directions of a dense matrix: few of a wide one from a Krylov space, else by LAPACK.

    Either only chooses a subspace of the smaller side; singular vectors are those of the matrix on it, so that their
    accuracy does not suffer from squares. What comes from a Krylov space is certified
    (`adaptzip.bases.krylov.leading_directions`), or LAPACK decides after all. Signs are those of
    `adaptzip.core.linalg.canonical_signs`.

    Args:
        matrix: (m, n), any real dtype; computed in float64.
        size: most directions, at least 1.

    Returns:
        U (m, k), S (k,) falling and V (n, k), float64, with k = min(size, m, n); columns of U and V whose singular
        value is below `SMALLEST` of the largest are zero.
    """
    exact = _exact(matrix.detach().to("cpu"))
    if exact.shape[0] < exact.shape[1]:
        V, S, U = _tall_directions(exact.T, size)
    else:
        U, S, V = _tall_directions(exact, size)
    U, Vt = canonical_signs(U, V.T)
    return _without_small(U, S), S, _without_small(Vt.T, S)


def lapack_directions(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V with at least `count` columns of a float64 matrix (m, n), m >= n, from the eigenvectors of A^T A."""
    # One column more than wanted, so that the last direction is told apart from its neighbour on the matrix itself.
    _, chosen = leading_eigen(matrix.T @ matrix, min(count + 1, matrix.shape[1]))
    return _on_subspace(matrix @ chosen, chosen)


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


def _exact(matrix: Tensor) -> Tensor:
    """The same numbers as float32 where that holds them, which takes half the room, else as float64."""
    small = matrix.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return matrix.to(torch.float32 if small else torch.float64)


def _tall_directions(matrix: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V of a matrix of at least as many rows as columns."""
    count = min(size, matrix.shape[1])
    found = _few_directions(matrix.contiguous(), count) if is_few(count, matrix.shape[1]) else None
    U, S, V = found or lapack_directions(matrix.double(), count)
    return U[:, :count], S[:count], V[:, :count]


def _few_directions(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """U, S, V from a Krylov space, with at least `count` columns; None where they are not what they should be."""
    chosen = leading_directions(matrix, count)
    if chosen is not None:
        U, S, V = _on_subspace(times(matrix, chosen), chosen)
        left = (turned_times(matrix, U[:, :count]) - V[:, :count] * S[:count]).norm(dim=0)
        if bool((left <= RESIDUAL * S[0]).all()):
            return U, S, V
    _log.debug("a matrix of %d x %d has no few directions that stand out: LAPACK finds them", *matrix.shape)
    return None


def _on_subspace(image: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V of a matrix on the columns of `chosen`, of which `image` is what it makes."""
    U, S, rotation = torch.linalg.svd(image, full_matrices=False)
    return U, S, chosen @ rotation.T


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
