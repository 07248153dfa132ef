"""Frames: orthonormal directions of the rows of a whole-number matrix, the same bits on every machine.

The Gram matrix is exact, so that no order of summation matters to it. Everything after it is one rounded operation per
element at a time, in an order that formats/starts-1.md states: no library's sums, and no fused multiply-add.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.errors import FormatError

MOST_WIDTH = 2**16 - 1
"""Widest matrix whose Gram matrix of 24-bit numbers fits 64 bits."""
MOST_ROWS = 2**10
LARGEST = 2**23
"""Largest absolute whole number in a frame's matrix."""
LEAST_PIVOT = 2.0**-24
"""Rows of which less than this share (squared) is left beside the rows before them are no direction of their own."""
REFERENCE_SCALE = 2.0**22
"""The largest absolute number of each row of a reference, once it is whole."""

Whole = NDArray[np.int64]
_HALF = 12
_COLUMNS = 512


def frame(numbers: Whole) -> Tensor:
    """The orthonormal rows of L^-1 N, N N^T = L L^T, as columns.

    Args:
        numbers: N (rows, width), whole numbers of at most `LARGEST`, rows <= width.

    Returns:
        V (width, rows), float32, with columns orthonormal to the rounding of float32.

    Raises:
        FormatError: if the matrix is too large, holds larger numbers, or has rows that depend on those before.

    Example:
        >>> from adaptzip.core.frames import frame
        >>> import numpy as np
        >>> frame(np.array([[3, 4, 0], [0, 5, 5]]))
        tensor([[ 0.6000, -0.4116],
                [ 0.8000,  0.3087],
                [ 0.0000,  0.8575]])
    """
    _check(numbers)
    lower = _cholesky(gram(numbers))
    directions = np.empty(numbers.shape, np.float32)
    for start in range(0, numbers.shape[1], _COLUMNS):  # a portion of columns stays in the processor's cache
        part = slice(start, start + _COLUMNS)
        directions[:, part] = _substituted(lower, numbers[:, part].astype(np.float64))
    return torch.from_numpy(directions.T.copy())


def gram(numbers: Whole) -> Whole:
    """N N^T (rows, rows), exact, for numbers of at most `LARGEST` and at most `MOST_WIDTH` of them in a row."""
    # Halves of 12 bits: their products' sums stay below 2^53, so that the library's matrix product is exact.
    high = numbers >> _HALF
    low = (numbers - (high << _HALF)).astype(np.float64)
    upper = high.astype(np.float64)
    mixed = upper @ low.T
    products = [(upper @ upper.T).astype(np.int64), (mixed + mixed.T).astype(np.int64), (low @ low.T).astype(np.int64)]
    return (products[0] << (2 * _HALF)) + (products[1] << _HALF) + products[2]


def whole_rows(matrix: Tensor) -> Whole:
    """The rows of a float matrix as whole numbers: each is multiplied by 2^22 over its largest, and rounded.

    Args:
        matrix: (rows, width), any float dtype, such as the A of another adapter.

    Returns:
        (rows, width), at most 2^22.

    Raises:
        FormatError: if a row is zero or not finite, or too small or large to be scaled.
    """
    values = matrix.detach().to("cpu", torch.float64).numpy()
    largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
    usable = (largest >= 2.0**-149) & (largest < 2.0**128)  # what float32 holds; NaN is neither
    if not usable.all():
        row = int(np.argmin(usable[:, 0]))
        raise FormatError(f"row {row} of a reference has {largest[row, 0]} as its largest, expected a finite number")
    whole: Whole = np.rint(values * (REFERENCE_SCALE / largest)).astype(np.int64)
    return whole


def _check(numbers: Whole) -> None:
    rows, width = numbers.shape
    if not 1 <= rows <= min(width, MOST_ROWS) or width > MOST_WIDTH:
        raise FormatError(
            f"a frame of {rows} rows of {width} numbers was asked for, expected 1 to {MOST_ROWS} rows, no more than "
            f"numbers in each, of which there are at most {MOST_WIDTH}"
        )
    if int(numbers.max()) > LARGEST or int(numbers.min()) < -LARGEST:
        raise FormatError(f"a frame's matrix holds numbers beyond {LARGEST}")


def _cholesky(exact: Whole) -> NDArray[np.float64]:
    """L (rows, rows), lower triangular: column by column, each taken off what is right of it at once."""
    rest = exact.astype(np.float64)
    least = LEAST_PIVOT * rest.diagonal().copy()
    lower = np.zeros_like(rest)
    for k in range(len(rest)):
        if not rest[k, k] > least[k]:
            raise FormatError(f"row {k} of a frame's matrix depends on the rows before it")
        lower[k, k] = np.sqrt(rest[k, k])
        lower[k + 1 :, k] = rest[k + 1 :, k] / lower[k, k]
        below = lower[k + 1 :, k]
        rest[k + 1 :, k + 1 :] -= np.multiply.outer(below, below)
    return lower


def _substituted(lower: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """L^-1 of the columns in `rest`, which is used up: row by row, each taken off the rows below at once."""
    product = np.empty_like(rest)
    for k in range(len(rest)):
        rest[k] /= lower[k, k]
        below = product[k + 1 :]
        np.multiply(lower[k + 1 :, k, None], rest[k], out=below)
        rest[k + 1 :] -= below
    return rest
