"""Logits over a bank: what they stand for, and where their gradients go."""

from __future__ import annotations

import pytest
import torch

from adaptzip.methods._banks.selecting import logits_of, mixed, selected

LEVELS = 64


def _stored(rows: int, vectors: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(k)
    indices = torch.stack([torch.randperm(vectors, generator=generator)[:k] for _ in range(rows)])
    cuts = torch.rand(rows, k, generator=generator).softmax(1).sort(1).values
    weights = (cuts[:, :-1] * LEVELS).round() / LEVELS
    # Among them a piece that leaves a vector out.
    weights[0] = 0.0
    return indices, weights, torch.randn(vectors, 5, generator=generator)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_logits_select_what_they_stand_for(k: int) -> None:
    indices, weights, bank = _stored(12, 9, k)
    again, shares = selected(logits_of(indices, weights, bank, LEVELS), k, LEVELS)
    whole = torch.cat([weights, 1 - weights.sum(1, keepdim=True)], 1)
    found = torch.cat([shares, 1 - shares.sum(1, keepdim=True)], 1)
    zeros = torch.zeros(12, 9)
    torch.testing.assert_close(zeros.scatter(1, again, found), zeros.scatter(1, indices, whole), atol=0, rtol=0)
    assert bool((found.diff(dim=1) >= 0).all())


@pytest.mark.parametrize("k", [2, 3])
def test_mixtures_are_the_softmax_over_the_highest_logits(k: int) -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    indices, weights = mixed(logits, k)
    whole = torch.cat([weights, 1 - weights.sum(1, keepdim=True)], 1)
    threshold = logits.detach().topk(k).values[:, -1:]
    expected = torch.where(logits >= threshold, logits, -torch.inf).softmax(1)
    torch.testing.assert_close(torch.zeros(6, 9).scatter(1, indices, whole), expected)
    torch.autograd.backward((whole[:, -1] ** 2).sum())
    assert logits.grad is not None
    assert bool(((logits.grad != 0) == (logits.detach() >= threshold)).all())


def test_single_vectors_keep_their_value_and_have_a_gradient() -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bank = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    indices, weights = mixed(logits, 1)
    whole = torch.cat([weights, 1 - weights.sum(1, keepdim=True)], 1)
    pieces = (bank[indices] * whole[:, :, None]).sum(1)
    torch.testing.assert_close(pieces.detach(), bank[logits.argmax(1)])
    wanted = bank[logits.topk(2).indices[:, 1]]
    torch.autograd.backward((pieces - wanted).square().sum())
    assert logits.grad is not None
    second = logits.topk(2).indices[:, 1:]
    # Gradient descent raises the logit of the vector that fits exactly.
    assert bool((logits.grad.gather(1, second) < 0).all())
