"""Bank and weights together, by the gradient of the update's own error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptzip.core.workers import parallel_map
from adaptzip.methods._banks.codes import Codes, decode, ordered
from adaptzip.methods._banks.factors import Coded, Group

_SMALLEST = 1e-3
"""Smallest weight that refinement begins with: at 0 a softmax has no gradient."""


def loss(group: Group, A: Tensor, B: Tensor) -> Tensor:
    """Weighted squared error less the constant |dW|^2, from inner products alone: O(rank^2 (in + out)) a module."""
    gram = ((A @ A.mT) * (B @ B.mT)).sum((1, 2))
    cross = ((B @ group.U) * (A @ group.V) * group.S[:, None]).sum((1, 2))
    return ((gram - 2 * cross) * group.weight).sum()


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


def refine(groups: Sequence[Group], coded: Sequence[Coded], bank: Tensor, steps: int) -> tuple[Tensor, list[Coded]]:
    """Steps of L-BFGS (Liu and Nocedal 1989) on the bank and, for k > 1, the weights; never to a higher error.

    Vectors are scaled by what an error in them costs, so that rare and common ones move alike; weights are a softmax.
    """
    cost = usage(groups, coded, bank)
    least = cost[cost > 0].amin() if bool((cost > 0).any()) else torch.ones((), device=bank.device)
    scale = cost.clamp(min=least).rsqrt()[:, None]
    moves = torch.zeros_like(bank, requires_grad=True)
    sides = [(codes.A, codes.B) for codes in coded]
    logits = [[_logits(codes) for codes in pair] for pair in sides] if coded[0].A.k > 1 else []
    own: Sequence[Sequence[Tensor]] = logits or [()] * len(groups)
    optimiser = torch.optim.LBFGS(
        [moves, *(tensor for pair in logits for tensor in pair)],
        max_iter=steps,
        max_eval=2 * steps,
        history_size=steps,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def current(i: int) -> Coded:
        if not logits:
            return coded[i]
        return Coded(*(Codes(c.indices, t.softmax(-1)) for c, t in zip(sides[i], logits[i], strict=True)))

    def closure() -> Tensor:
        vectors = (bank + moves * scale).detach().requires_grad_()

        def differentiated(i: int) -> tuple[Tensor, Sequence[Tensor]]:
            """Loss of a group, and its gradients: of the vectors, and of the group's own logits."""
            with torch.enable_grad():
                value = loss(groups[i], *decoded(groups[i], current(i), vectors))
                return value.detach(), torch.autograd.grad(value, [vectors, *own[i]])

        total, gradient = torch.zeros((), device=bank.device), torch.zeros_like(bank)
        found = parallel_map(differentiated, range(len(groups)), device=bank.device)
        for (value, (first, *rest)), tensors in zip(found, own, strict=True):
            total += value
            gradient += first
            for tensor, its in zip(tensors, rest, strict=True):
                tensor.grad = its
        moves.grad = gradient * scale
        return total

    before = _total(groups, coded, bank)
    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        vectors, found = bank + moves * scale, [current(i) for i in range(len(groups))]
        if not _total(groups, found, vectors) < before:
            return bank, list(coded)
        return vectors, [Coded(ordered(codes.A), ordered(codes.B)) for codes in found]


def _logits(codes: Codes) -> Tensor:
    return codes.weights.clamp(min=_SMALLEST).log().requires_grad_()


def _total(groups: Sequence[Group], coded: Sequence[Coded], bank: Tensor) -> float:
    def one(pair: tuple[Group, Coded]) -> float:
        with torch.no_grad():
            return float(loss(pair[0], *decoded(*pair, bank)))

    return sum(parallel_map(one, zip(groups, coded, strict=True), device=bank.device))
