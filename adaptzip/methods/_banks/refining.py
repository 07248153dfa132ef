"""The bank by the gradient of the updates' own error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptzip.core.workers import parallel_map
from adaptzip.methods._banks.codes import Codes, cut, decode
from adaptzip.methods._banks.descent import descend
from adaptzip.methods._banks.factors import Coded, Group

_FIRST = 0.5
"""The first step in gradients: scaled as they are here, the error bends twice as much as a square if rows are apart."""
_PORTION = 16
"""Groups whose gradients a worker adds up."""


def usage(groups: Sequence[Group], coded: Sequence[Coded], bank: Tensor) -> Tensor:
    """(h,): what a squared error in each number of a vector costs in the update, summed over its uses."""
    total = torch.zeros_like(bank[:, 0])
    for group, codes in zip(groups, coded, strict=True):
        A, B = decoded(group, codes, bank)
        for found, other in ((codes.A, B), (codes.B, A)):
            cost = (other.square().sum(2) * group.weight[:, None])[..., None, None] * found.weights.square()
            total.index_add_(0, found.indices.flatten(), cost.flatten())
    return total


def exposures(groups: Sequence[Group], coded: Sequence[Coded], bank: Tensor) -> list[Tensor]:
    """(n,) for each group: the squared error in each update when every number of the bank has a squared error of 1.

    Errors in different vectors are taken for independent, as those of a quantiser are.
    """
    found = []
    for group, codes in zip(groups, coded, strict=True):
        A, B = decoded(group, codes, bank)
        total = torch.zeros_like(group.weight)
        for side, other, width in ((codes.A, B, group.V.shape[1]), (codes.B, A, group.U.shape[1])):
            # A row's last piece may reach beyond it; what is cut off costs nothing.
            share = width / (side.indices.shape[-2] * bank.shape[1])
            total += (side.weights.square().sum((2, 3)) * other.square().sum(2)).sum(1) * share * bank.shape[1]
        found.append(total * group.weight)
    return found


def decoded(group: Group, coded: Coded, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of A (n, rank, in) and B (n, rank, out)."""
    return decode(bank, coded.A, group.V.shape[1]), decode(bank, coded.B, group.U.shape[1])


def refine(groups: Sequence[Group], coded: Sequence[Coded], bank: Tensor, steps: int) -> Tensor:
    """The bank after some steps of L-BFGS, with which these codes have no larger error.

    Vectors are scaled by what an error in them costs, so that rare and common ones move alike.
    """
    cost = usage(groups, coded, bank)
    least = cost[cost > 0].amin() if bool((cost > 0).any()) else torch.ones((), device=bank.device)
    scale = cost.clamp(min=least).rsqrt()[:, None]
    pairs = list(zip(groups, coded, strict=True))
    portions = [pairs[i : i + _PORTION] for i in range(0, len(pairs), _PORTION)]

    def evaluate(moves: Tensor) -> tuple[float, Tensor]:
        vectors = bank + moves * scale
        value, gradient = 0.0, torch.zeros_like(bank)
        found = parallel_map(lambda portion: differentiated(portion, vectors), portions, device=bank.device)
        for one, its in found:
            value += one
            gradient += its
        return value, gradient.mul_(scale)

    return bank + descend(evaluate, torch.zeros_like(bank), steps, _FIRST).x * scale


def differentiated(portion: Sequence[tuple[Group, Coded]], bank: Tensor) -> tuple[float, Tensor]:
    """Weighted squared error of some groups less the constant |dW|^2, and its gradient (h, length)."""
    value, gradient = 0.0, torch.zeros_like(bank)
    for group, codes in portion:
        A, B = decoded(group, codes, bank)
        own, other = A @ A.mT, B @ B.mT
        # Inner products with the update's components: O(rank^2 (in + out)) a module.
        right, left = (A @ group.V) * group.S[:, None], B @ group.U
        each = (own * other).sum((1, 2)) - 2 * (left * right).sum((1, 2))
        value += float((each * group.weight).sum(dtype=torch.float64))
        double = 2 * group.weight[:, None, None]
        _spread(gradient, codes.A, torch.baddbmm(other @ A, left * group.S[:, None], group.V.mT, alpha=-1).mul_(double))
        _spread(gradient, codes.B, torch.baddbmm(own @ B, right, group.U.mT, alpha=-1).mul_(double))
    return value, gradient


def _spread(gradient: Tensor, codes: Codes, rows: Tensor) -> None:
    """Add the gradient of rows (n, rank, width) to that of the vectors which they are mixed of."""
    whole, rest = cut(rows, gradient.shape[1])
    count = whole.shape[-2]
    for part, pieces in ((whole, slice(count)), (None if rest is None else rest[..., None, :], slice(count, None))):
        if part is None or not part.numel():
            continue
        flat = part.reshape(-1, part.shape[-1])
        for term in range(codes.k):
            weights = codes.weights[..., pieces, term].reshape(-1, 1)
            own = flat if codes.k == 1 else flat * weights
            gradient[:, : flat.shape[1]].index_add_(0, codes.indices[..., pieces, term].flatten(), own)
