"""Choosing vectors and weights for pieces."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from adaptzip.methods._banks.choosing import choose_codes
from adaptzip.methods._banks.codes import decode
from adaptzip.methods._banks.mixing import simplex_weights


@pytest.fixture
def bank() -> torch.Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(6, 23, generator=torch.Generator().manual_seed(2))


def test_one_vector_is_the_nearest(bank: torch.Tensor, rows: torch.Tensor) -> None:
    codes = choose_codes(bank, rows, 1)
    nearest = torch.cdist(rows[:, :20].reshape(-1, 5), bank).argmin(1).reshape(6, 4)
    assert torch.equal(codes.indices[:, :4, 0], nearest)
    # The last piece has three numbers; only they count.
    assert torch.equal(codes.indices[:, 4, 0], torch.cdist(rows[:, 20:], bank[:, :3]).argmin(1))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_weights_are_the_best_of_the_simplex(m: int) -> None:
    generator = torch.Generator().manual_seed(m)
    vectors = torch.randn(20, m, 6, generator=generator, dtype=torch.float64)
    pieces = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    G, g = vectors @ vectors.mT, (vectors @ pieces[..., None])[..., 0]
    weights, value = simplex_weights(G, g)
    assert bool((weights >= 0).all())
    assert torch.allclose(weights.sum(1), torch.ones(20, dtype=torch.float64))
    for i in range(20):
        Gi, gi = G[i].numpy(), g[i].numpy()
        found = minimize(
            lambda w, G=Gi, g=gi: w @ G @ w - 2 * g @ w,
            np.full(m, 1 / m),
            jac=lambda w, G=Gi, g=gi: 2 * (G @ w - g),
            bounds=[(0, 1)] * m,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
        )
        assert float(value[i]) <= found.fun + 1e-6


@pytest.mark.parametrize(("k", "slack"), [(2, 1.02), (3, 1.05)])
def test_a_searched_mixture_comes_near_to_the_best_of_all_subsets(bank: torch.Tensor, k: int, slack: float) -> None:
    pieces = torch.randn(40, 5, generator=torch.Generator().manual_seed(3))
    codes = choose_codes(bank, pieces, k)
    error = float((decode(bank, codes, 5) - pieces).square().sum())
    best = torch.full((40,), float("inf"))
    for subset in combinations(range(12), k):
        vectors = bank[list(subset)]
        gram = (vectors @ vectors.T).expand(40, k, k)
        _, value = simplex_weights(gram, pieces @ vectors.T)
        best = torch.minimum(best, value + pieces.square().sum(1))
    assert float(best.sum()) * 0.999 <= error <= slack * float(best.sum())


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_vectors_of_a_mixture_differ(k: int) -> None:
    bank = torch.zeros(6, 3)
    codes = choose_codes(bank, torch.ones(5, 3), k, levels=64)
    assert all(len(set(row)) == k for row in codes.indices.reshape(-1, k).tolist())
    assert bool(codes.weights.isfinite().all())
