"""The best low-rank product for a dense matrix: by an exact SVD, or a Krylov space where few directions are wanted.

Either way what is said of the error is measured: the norm of the difference between the matrix and the product itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptzip.core.linalg import canonical_signs

_SPARE = 8
"""Directions of a block beside those that are wanted."""
_BLOCKS = 12
"""Most blocks of a Krylov space."""
_SHARE = 8
"""How many times smaller than the matrix a block has to be for a Krylov space to take less time than an SVD."""
_GAIN = 1e-5
"""Share of the error's square that the last block explains when a Krylov space is large enough."""
_NOISE = 1e-7
"""Singular values below this share of the largest are rounding."""
_ROWS = 1 << 17
"""Numbers of the rows whose error is measured at a time, in float64: few enough for a core's cache."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A matrix (out, in) that is too large to be in memory, made anew a block of rows at a time.

    Attributes:
        shape: (out, in).
        dtype: float32 or float64.
        read: the rows from the first to before the second, as a matrix of that dtype.
        step: how many rows are read at a time.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    read: Callable[[int, int], Tensor]
    step: int

    def blocks(self) -> Iterator[Tensor]:
        """All rows, in order."""
        for start in range(0, self.shape[0], self.step):
            yield self.read(start, min(start + self.step, self.shape[0]))


@dataclass(frozen=True, eq=False)
class Truncated:
    """A product `B @ A` in place of a matrix D (out, in).

    Attributes:
        A: (rank, in), in the dtype that was asked for.
        B: (out, rank).
        energy: |D|^2, the sum of its squares.
        lost: |D - B @ A|^2, measured.
        exact: whether it is from an SVD of the whole matrix.
    """

    A: Tensor
    B: Tensor
    energy: float
    lost: float
    exact: bool = True

    def turned(self) -> Truncated:
        """The same of the transposed matrix."""
        return replace(self, A=self.B.T.contiguous(), B=self.A.T.contiguous())


def is_few(rank: int | None, shape: tuple[int, ...]) -> bool:
    """Whether so few directions of a matrix are wanted that a Krylov space is tried for them."""
    return rank is not None and _SHARE * (rank + _SPARE) <= min(shape)


def truncated(D: Tensor | Rows, rank: int | None = None, *, most_lost: float = 0.0, dtype: torch.dtype) -> Truncated:
    """The product of at most `rank` directions that is nearest to D (Eckart and Young, 1936).

    The exact SVD of the whole matrix is taken unless `rank` is so small that a block Krylov space is much faster. Its
    blocks are added until one explains less than 1e-5 of what is left, so that the error is the best one's within
    about that share; where that takes too many, the SVD is taken after all.

    Args:
        D: (out, in), float32 or float64; rows that are read are in memory at once only where the SVD is taken.
        rank: most directions; None for as many as D has.
        most_lost: relative error |D - D'| / |D| for which fewer directions are taken.
        dtype: dtype of the factors.
    """
    energy = sum(map(squares, _blocks(D)))
    limit = min(D.shape) if rank is None else min(rank, *D.shape)
    found = _from_krylov(D, limit, energy) if is_few(limit, D.shape) else None
    U, S, Vt = torch.linalg.svd(_whole(D), full_matrices=False) if found is None else found
    kept = _kept(S[:limit], energy, most_lost)
    U, Vt = canonical_signs(U[:, :kept], Vt[:kept])
    root = S[:kept].sqrt()
    A, B = (root[:, None] * Vt).to(dtype).contiguous(), (U * root).to(dtype).contiguous()
    return Truncated(A, B, energy, _lost(D, A, B), found is None)


def _blocks(D: Tensor | Rows) -> Iterator[Tensor]:
    return iter([D]) if isinstance(D, Tensor) else D.blocks()


def _whole(D: Tensor | Rows) -> Tensor:
    return D if isinstance(D, Tensor) else torch.cat(list(D.blocks()))


def _times(D: Tensor | Rows, X: Tensor) -> Tensor:
    """D @ X, into one piece: small products between large blocks would leave the heap in fragments."""
    found, start = X.new_empty(D.shape[0], X.shape[1]), 0
    for block in _blocks(D):
        torch.mm(block, X, out=found[start : start + len(block)])
        start += len(block)
    return found


def _turned_times(D: Tensor | Rows, X: Tensor) -> Tensor:
    """D^T @ X."""
    total, start = X.new_zeros(D.shape[1], X.shape[1]), 0
    for block in _blocks(D):
        total.addmm_(block.T, X[start : start + len(block)])
        start += len(block)
    return total


def squares(tensor: Tensor) -> float:
    """The sum of a tensor's squares; a block of rows at a time in float64."""
    return sum(float(part.double().square().sum()) for part in torch.split(tensor, _rows(tensor)))


def _kept(S: Tensor, energy: float, most_lost: float) -> int:
    """How many values are no rounding and needed for the error; at least one."""
    explained = S.double().square().cumsum(0)
    needed = int((energy - explained > most_lost**2 * energy).sum()) + 1 if most_lost else len(S)
    return max(1, min(needed, int((_NOISE * S[0] < S).sum())))


def _from_krylov(D: Tensor | Rows, rank: int, energy: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """The first directions of D, or None where too many blocks do not suffice for them.

    The space is that of D G, (D D^T) D G, ... for a block G of Gaussian columns (Musco and Musco, 2015), built on the
    smaller side of D, and its basis Q is made orthogonal twice. The directions are the SVD of P^T D, P the part of Q
    that explains most; Q^T D is not kept, which takes one more product and much less memory.
    """
    turned = D.shape[0] > D.shape[1]
    small, large = sorted(D.shape)
    # With M the matrix or its transpose, whose rows are the smaller side: M @ X, and M^T @ X.
    times, turned_times = (_turned_times, _times) if turned else (_times, _turned_times)
    drawn = torch.Generator().manual_seed(0)
    block = times(D, torch.randn(large, rank + _SPARE, generator=drawn, dtype=D.dtype))
    Q, gram = block.new_empty(small, 0), block.new_empty(0, 0)
    before = -math.inf
    while Q.shape[1] + block.shape[1] <= min(_BLOCKS * block.shape[1], small // 2):
        for _ in range(2):
            block = torch.linalg.qr(block - Q @ (Q.T @ block)).Q
        Q = torch.cat([Q, block], 1)
        block = times(D, turned_times(D, block))
        side = Q.T @ block
        gram = torch.cat([torch.cat([gram, side[: len(gram)]], 1), side.T])
        explained = float(torch.linalg.eigvalsh(gram.double())[-rank:].sum())
        if explained - before <= _GAIN * max(energy - explained, _NOISE * energy):
            vectors = torch.linalg.eigh(gram.double()).eigenvectors[:, -rank:].flip(1)
            left = Q @ vectors.to(D.dtype)
            U, S, Vt = torch.linalg.svd(turned_times(D, left).T, full_matrices=False)
            return (Vt.T, S, (left @ U).T) if turned else (left @ U, S, Vt)
        before = explained
    return None


def _lost(D: Tensor | Rows, A: Tensor, B: Tensor) -> float:
    lost, start = 0.0, 0
    for block in _blocks(D):
        for part in torch.split(block, _rows(block)):
            lost += squares(part - B[start : start + len(part)].to(D.dtype) @ A.to(D.dtype))
            start += len(part)
    return lost


def _rows(tensor: Tensor) -> int:
    return max(1, _ROWS // max(1, tensor[0].numel())) if len(tensor) else 1
