"""Rows of `svd` as coordinates in known directions and the rest, in sums whose order every machine keeps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SMALLEST = 4
"""Fewest directions that a frame is cut to."""


def placed(coordinates: Tensor, frame: Tensor, rest: Tensor) -> Tensor:
    """(rank, n) C F^T + W: in training as a product, in decoding in float64 and in an order that every machine keeps.

    A number of C, which is a whole number times the step, or a whole number, times one of F is exact in float64; what
    is rounded are the sums, one direction of the frame after the other.

    Args:
        coordinates, frame, rest: C (rank, k), F (n, k) and W (rank, n).
    """
    if coordinates.requires_grad or rest.requires_grad:
        return coordinates @ frame.T + rest
    total = rest.double()
    for column, direction in zip(coordinates.double().T, frame.double().T, strict=True):
        total += column[:, None] * direction
    return total


def unit_columns_of(rows: Tensor) -> Tensor:
    """Rows (rank, out) as columns (out, rank) of unit length in their dtype; a row of zeros stays one.

    Squares are rounded one by one, and added up halves onto halves.
    """
    squares = _folded(rows.square())
    return torch.where(squares > 0, rows / torch.where(squares > 0, squares, 1.0).sqrt(), 0.0).T


def _folded(rows: Tensor) -> Tensor:
    """(rank, 1) sums of the rows (rank, n): filled up with zeros to a power of two, the second half onto the first."""
    length = 1 << (rows.shape[1] - 1).bit_length()
    sums = torch.nn.functional.pad(rows, (0, length - rows.shape[1]))
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    return sums


def outside_by_size(vectors: Tensor, frame: Tensor) -> dict[int, NDArray[np.float64]]:
    """Share of the energy of each vector that lies outside the first directions of a frame, by how many are taken.

    Args:
        vectors: (n, k), one in a column.
        frame: (n, r0), orthonormal columns.

    Returns:
        (k,) for each power of two from 4 to below r0, and for r0.
    """
    vectors, frame = vectors.double(), frame.double()
    inside = frame.T @ vectors
    rest = (vectors - frame @ inside).square().sum(0)
    energy = vectors.square().sum(0).clamp(min=torch.finfo(vectors.dtype).tiny)
    # What is left beside all directions, and coordinates in those that are not taken: no difference of large numbers.
    kept_back = inside.square().flip(0).cumsum(0).flip(0)
    found = {size: rest + kept_back[size] for size in sizes_below(len(inside))} | {len(inside): rest}
    return {size: (left / energy).clamp(max=1.0).cpu().numpy() for size, left in found.items()}


def sizes_below(size: int) -> list[int]:
    """What a frame of `size` directions may be cut to: powers of two."""
    return [1 << n for n in range(_SMALLEST.bit_length() - 1, size.bit_length()) if 1 << n < size]
