"""Leading right singular directions from a block Krylov space, with a certificate, where that is less work than LAPACK.

Block Lanczos on A^T A (Golub and Underwood, 1977; Golub, Luk and Overton, 1981) with each block made orthogonal to all
before it, twice. The start is drawn from a fixed generator, so that equal matrices give equal directions; what is
certified does not depend on it. A is read a few rows at a time, which become float64 in the processor's cache and serve
both products there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.core.linalg import leading_eigen

NARROWEST = 2048
"""Width below which LAPACK's partial eigensolver takes less time (docs/decisions/0020-directions.md)."""
LARGEST_SHARE = 1 / 32
"""Share of the width up to which directions count as few."""
RESIDUAL = 1e-10
"""Largest |A^T u - s v| of a direction, as a share of the largest singular value."""
_ANGLE = 1e-10
"""Largest residual over the gap to the neighbouring values, a bound of the angle (Davis and Kahan, 1970)."""
_ROUNDING = 1e-14
"""Share of the largest value below which a residual is as good as rounding allows, however close the neighbours."""
_BLOCK = 8
"""Directions of a block: fewer leave the processor waiting for memory, more take a larger space in all."""
_MOST = 1 / 2
"""Share of the width that the space may take before LAPACK is asked instead."""
_MISSED, _DOUBT = 0.05, 1e-12
"""A value that is larger by this share of its square is missed with at most this probability."""
_EQUAL = 1e-7
"""Squares nearer than this share of the largest count as equal."""
_ROWS = 128
"""Rows that lie in a core's cache as float64."""


@dataclass(frozen=True)
class _Space:
    """A Krylov space and A^T A on it.

    Attributes:
        rows: (m, n) orthonormal rows, float64.
        projected: (m, m) A^T A between them.
        next: (b, n) orthonormal rows, the block that would follow.
        coupling: (b, b), so that A^T A rows^T y leaves the space by next^T coupling y[-b:].
    """

    rows: Tensor
    projected: Tensor
    next: Tensor
    coupling: Tensor


def is_few(count: int, width: int) -> bool:
    """Whether `count` directions of a matrix of `width` columns are worth a try."""
    return width >= NARROWEST and count <= LARGEST_SHARE * width


def leading_directions(matrix: Tensor, count: int) -> Tensor | None:
    """The first `count` right singular directions and one more, which tells the last apart; None without certificate.

    The first `count` have residuals of at most `RESIDUAL`, and an angle to the exact ones of at most 1e-10 where gaps
    between values allow. That none is missed follows from the start being random in all directions: for b blocks of
    8, a value above those that were left out by a share e of its square is missed with a probability of at most
    (1.648 sqrt(n) exp(-(2 b - 1) sqrt(e)))^8 (Kuczynski and Wozniakowski, 1992, for each of 8 columns); the space is
    grown until that is 1e-12 for e = 0.05. Where 8 values in a row are equal there may be more of them than a block
    can tell apart, and there is no certificate.

    Args:
        matrix: (m, n), at least as many rows as columns, float32 or float64, finite.
        count: at least 1.

    Returns:
        V (n, count + 1), float64, orthonormal.
    """
    width = matrix.shape[1]
    limit, check = int(_MOST * width), max(_fewest(width) * _BLOCK, 2 * count)
    for space in _growing(matrix):
        size = len(space.rows)
        if size >= check:
            values, vectors = leading_eigen(space.projected, count + 1)
            if _is_settled(space, values, vectors, count):
                return None if _has_too_many_equal(values) else space.rows.T @ vectors
            check = size + size // 16
        if size + _BLOCK > limit:
            return None
    return None


def times(matrix: Tensor, V: Tensor) -> Tensor:
    """A @ V in float64, for A (m, n) of any real dtype and V (n, k)."""
    return torch.cat([part @ V for part in _parts(matrix)])


def turned_times(matrix: Tensor, U: Tensor) -> Tensor:
    """A^T @ U in float64, for A (m, n) of any real dtype and U (m, k)."""
    total = U.new_zeros(U.shape[1], matrix.shape[1])
    for part, rows in zip(_parts(matrix), torch.split(U, _ROWS), strict=True):
        total.addmm_(rows.T, part)
    return total.T


def _growing(matrix: Tensor) -> Iterator[_Space]:
    """The space with one block more each time, until it is exhausted."""
    drawn = torch.Generator().manual_seed(0)
    start = torch.randn(_BLOCK, matrix.shape[1], generator=drawn, dtype=torch.float64)
    block = torch.linalg.qr(start.T).Q.T.contiguous()
    basis = block.new_empty(int(_MOST * matrix.shape[1]), matrix.shape[1])
    projected = block.new_zeros(len(basis), len(basis))
    for begin in range(0, len(basis) - _BLOCK + 1, _BLOCK):
        end = begin + _BLOCK
        basis[begin:end] = block
        image = _gram_times(matrix, block)
        inside = image @ basis[:end].T
        projected[begin:end, :end], projected[:end, begin:end] = inside, inside.T
        image -= inside @ basis[:end]
        image -= (image @ basis[:end].T) @ basis[:end]
        Q, R = torch.linalg.qr(image.T)
        if float(R.diagonal().abs().min()) <= _ROUNDING * _BLOCK * float(projected.diagonal().max()):
            return
        block = Q.T.contiguous()
        yield _Space(basis[:end], projected[:end, :end], block, R)


def _gram_times(matrix: Tensor, rows: Tensor) -> Tensor:
    """(A^T A rows^T)^T for rows (b, n)."""
    total = torch.zeros_like(rows)
    for part in _parts(matrix):
        total.addmm_(rows @ part.T, part)
    return total


def _parts(matrix: Tensor) -> Iterator[Tensor]:
    """Some rows after others as float64, each good until the next: fresh memory would cost as much as the products."""
    place = torch.empty(min(_ROWS, len(matrix)), matrix.shape[1], dtype=torch.float64)
    for part in torch.split(matrix, _ROWS):
        yield place[: len(part)].copy_(part)


def _is_settled(space: _Space, values: Tensor, vectors: Tensor, count: int) -> bool:
    """Whether the first `count` directions are as good as they have to be."""
    largest = float(values[0])
    left = (space.coupling @ vectors[-_BLOCK:, :count]).norm(dim=0)
    steps = values[:-1] - values[1:]
    gaps = torch.minimum(steps, torch.cat([values[:1], steps[:-1]]))
    # A^T A v - s^2 v = s (A^T u - s v).
    near = left <= RESIDUAL * (values[:count] * largest).sqrt()
    told_apart = (left <= _ANGLE * gaps) | (left <= _ROUNDING * largest)
    return bool((near & told_apart).all())


def _has_too_many_equal(values: Tensor) -> bool:
    apart = values[: 1 - _BLOCK] - values[_BLOCK - 1 :] if len(values) >= _BLOCK else values[:0]
    return bool((apart <= _EQUAL * values[0]).any())


def _fewest(width: int) -> int:
    """Blocks after which a value of note is hardly missed."""
    nats = math.log(1.648 * math.sqrt(width)) - math.log(_DOUBT) / _BLOCK
    return math.ceil((nats / math.sqrt(_MISSED) + 1) / 2)
