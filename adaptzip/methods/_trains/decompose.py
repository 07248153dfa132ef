"""TT-SVD of many tensors of one shape at once, by eigenvectors of the smaller Gram matrix of each unfolding.

Oseledets, Tensor-train decomposition, SIAM Journal on Scientific Computing 33 (2011), algorithm 1. The sweep goes from
left to right: all cores but the last have orthonormal columns, and the last carries the norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

import torch
from torch import Tensor

from adaptzip.core.workers import parallel_map
from adaptzip.errors import UsageError

_PARTS = 8
"""Parts of a batch that are decomposed side by side."""


def tt_svd(
    tensors: Tensor,
    modes: Sequence[int],
    rank: int | Sequence[int] | None = None,
    tolerance: float | None = None,
    *,
    accumulate: torch.dtype | None = None,
) -> list[Tensor]:
    """The tensor train of each of n tensors.

    Args:
        tensors: (n, prod(modes)), row-major, float32 or float64.
        rank: most singular directions at every bond, or at each of the len(modes) - 1 bonds; None keeps them all.
        tolerance: largest relative error of any tensor of the batch; ranks fall as far as this allows at each bond.
        accumulate: dtype of the Gram matrices and their eigenvectors; None for the tensors' own. With float64, small
            directions of float32 tensors come out right that float32 loses below 3e-4 of the largest.

    Returns:
        Cores (n, r_{i-1}, k_i, r_i) with r_0 = r_d = 1; the ranks are those of the tensor that needs most. On a CPU,
        parts of the batch are decomposed side by side, each on one core.

    Raises:
        UsageError: if modes, ranks and tensors do not fit together.
    """
    ranks = _wanted_ranks(tensors, modes, rank)
    if tolerance is not None or len(tensors) < 2 or tensors.device.type != "cpu":
        return _tt_svd(tensors, modes, ranks, tolerance, accumulate or tensors.dtype)
    parts = torch.split(tensors, -(-len(tensors) // _PARTS))
    found = parallel_map(lambda part: _tt_svd(part, modes, ranks, None, accumulate or tensors.dtype), parts)
    return [torch.cat(cores) for cores in zip(*found, strict=True)]


def _tt_svd(
    tensors: Tensor, modes: Sequence[int], ranks: Sequence[int], tolerance: float | None, dtype: torch.dtype
) -> list[Tensor]:
    """`tt_svd` of checked arguments, one batch."""
    n = len(tensors)
    allowed = None
    if tolerance is not None:
        allowed = tensors.double().square().sum(1) * (tolerance / sqrt(max(1, len(modes) - 1))) ** 2
    cores: list[Tensor] = []
    left, rest = 1, tensors
    for mode, most in zip(modes[:-1], ranks, strict=True):
        unfolding = rest.reshape(n, left * mode, -1)
        columns = _leading(unfolding, most, allowed, dtype)
        rest = columns.mT @ unfolding
        cores.append(columns.reshape(n, left, mode, -1))
        left = columns.shape[2]
    return [*cores, rest.reshape(n, left, modes[-1], 1)]


def spectra(tensors: Tensor, modes: Sequence[int]) -> list[Tensor]:
    """Singular values (n, p_i), falling, float64, of each unfolding of n tensors (n, prod(modes)): bond by bond.

    p_i is the smaller side of unfolding i. The tensor train cut to r_i at each bond has a squared error of at most the
    sum of the squares that are cut off (Oseledets 2011, corollary 2.4).
    """
    found = []
    for i in range(1, len(modes)):
        unfolding = tensors.reshape(len(tensors), prod(modes[:i]), -1).double()
        small = unfolding if unfolding.shape[1] <= unfolding.shape[2] else unfolding.mT
        values = torch.linalg.eigvalsh(small @ small.mT)
        found.append(values.flip(1).clamp(min=0).sqrt())
    return found


def _wanted_ranks(tensors: Tensor, modes: Sequence[int], rank: int | Sequence[int] | None) -> list[int]:
    """The largest rank of each bond, none above what the bond can have."""
    if tensors.ndim != 2 or not modes or min(modes) < 1 or tensors.shape[1] != prod(modes):
        raise UsageError(f"tensors are {tuple(tensors.shape)}, expected (n, {prod(modes)}) for modes {tuple(modes)}")
    bonds = len(modes) - 1
    wanted = [rank] * bonds if rank is None or isinstance(rank, int) else list(rank)
    if len(wanted) != bonds or any(r is not None and r < 1 for r in wanted):
        raise UsageError(f"ranks are {wanted}, expected {bonds} of at least 1 for {len(modes)} modes")
    full = [min(prod(modes[: i + 1]), prod(modes[i + 1 :])) for i in range(bonds)]
    return [f if w is None else min(f, w) for f, w in zip(full, wanted, strict=True)]


def _leading(unfolding: Tensor, most: int, allowed: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(n, p, r): orthonormal columns that span the leading left singular directions of (n, p, q)."""
    rows, columns = unfolding.shape[1:]
    wide = unfolding.to(dtype)
    values, vectors = torch.linalg.eigh(wide @ wide.mT if rows <= columns else wide.mT @ wide)
    values, vectors = values.flip(1), vectors.flip(2)
    kept = min(most, values.shape[1])
    if allowed is not None:
        kept = min(kept, _needed(values, allowed))
    found: Tensor = vectors[:, :, :kept]
    if rows > columns:
        # QR keeps the columns orthonormal where singular values are too small to divide by.
        found = torch.linalg.qr(wide @ found)[0]
    return found.to(unfolding.dtype)


def _needed(values: Tensor, allowed: Tensor) -> int:
    """The fewest of the falling eigenvalues (n, p) that leave out at most `allowed` (n,) of any tensor."""
    tails = values.double().clamp(min=0).flip(1).cumsum(1).flip(1)
    return max(1, int((tails > allowed[:, None]).sum(1).max()))
