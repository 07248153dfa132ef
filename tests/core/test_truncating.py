"""Cutting a dense matrix to its first directions: as good as an SVD of float64, and told as it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adaptzip.core.truncating import Rows, squares, truncated


def drawn(rows: int, columns: int, kind: str) -> Tensor:
    """Noise, whose values hardly fall; falling values; few of them under noise; or few alone."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(rows, columns, generator=generator)
    few = torch.randn(rows, 5, generator=generator) @ torch.randn(5, columns, generator=generator)
    if kind == "falling":
        U, S, Vt = torch.linalg.svd(noise, full_matrices=False)
        falling: Tensor = (U * (1.0 / torch.arange(1, len(S) + 1))) @ Vt
        return falling
    kinds: dict[str, Tensor] = {"noise": noise, "mixed": few + 0.1 * noise, "few": few}
    return kinds[kind]


def best_error(D: Tensor, rank: int) -> float:
    energies = torch.linalg.svdvals(D.double()).square()
    return math.sqrt(float(energies[rank:].sum() / energies.sum()))


@pytest.mark.parametrize("kind", ["noise", "falling", "mixed", "few"])
@pytest.mark.parametrize("shape", [(160, 200), (300, 150)])
@pytest.mark.parametrize("rank", [1, 4, 8, 40])
def test_the_error_is_that_of_an_exact_svd(kind: str, shape: tuple[int, int], rank: int) -> None:
    D = drawn(*shape, kind)
    found = truncated(D, rank, dtype=torch.float32)
    if kind == "falling":
        assert found.exact == (8 * (rank + 8) > min(shape))
    assert found.A.shape[0] == found.B.shape[1] <= rank
    told = math.sqrt(found.lost / found.energy)
    true = float((D.double() - found.B.double() @ found.A.double()).norm() / D.double().norm())
    assert told == pytest.approx(true, rel=1e-5, abs=1e-8)
    best = best_error(D, rank)
    assert best - 1e-6 <= true <= best * (1 + 1e-4) + 1e-6


@pytest.mark.parametrize("kind", ["noise", "falling", "mixed", "few"])
@pytest.mark.parametrize("shape", [(160, 200), (300, 150)])
@pytest.mark.parametrize("step", [7, 64, 1000])
def test_a_matrix_that_is_read_by_rows_is_cut_like_one_in_memory(kind: str, shape: tuple[int, int], step: int) -> None:
    D = drawn(*shape, kind)
    rows = Rows(shape, D.dtype, lambda start, stop: D[start:stop].clone(), step)
    whole, found = truncated(D, 4, dtype=torch.float32), truncated(rows, 4, dtype=torch.float32)
    assert found.exact == whole.exact
    assert (found.A.shape, found.B.shape) == (whole.A.shape, whole.B.shape)
    assert found.energy == pytest.approx(whole.energy)
    assert found.lost == pytest.approx(whole.lost, rel=1e-4, abs=1e-6 * whole.energy)
    turned = found.turned()
    assert torch.allclose(turned.B @ turned.A, (found.B @ found.A).T, atol=1e-5)


def test_a_space_that_is_too_large_is_left_for_the_svd() -> None:
    """Noise of this size has no first directions that blocks find within half of the matrix."""
    D = drawn(160, 200, "noise")
    found = truncated(D, 8, dtype=torch.float32)
    assert found.exact
    assert math.sqrt(found.lost / found.energy) == pytest.approx(best_error(D, 8), rel=1e-5)


def test_no_direction_is_kept_that_is_rounding() -> None:
    assert len(truncated(drawn(60, 50, "few"), dtype=torch.float32).A) < 50
    whole = drawn(60, 50, "noise")
    found = truncated(whole, dtype=torch.float32)
    assert len(found.A) == 50
    assert torch.allclose(found.B @ found.A, whole, atol=1e-5)


@pytest.mark.parametrize("most_lost", [0.01, 0.3, 0.9])
def test_directions_that_an_error_leaves_over_are_not_taken(most_lost: float) -> None:
    D = drawn(80, 60, "falling")
    found = truncated(D, most_lost=most_lost, dtype=torch.float32)
    rank = len(found.A)
    assert best_error(D, rank) <= most_lost < (best_error(D, rank - 1) if rank > 1 else 1.0)


def test_float64_stays_exact_and_rounding_of_factors_is_counted() -> None:
    D = drawn(30, 20, "noise").double()
    exact = truncated(D, dtype=torch.float64)
    assert (exact.A.dtype, exact.lost / exact.energy < 1e-25) == (torch.float64, True)
    rounded = truncated(D, dtype=torch.bfloat16)
    assert rounded.A.dtype == torch.bfloat16
    assert 1e-3 < math.sqrt(rounded.lost / rounded.energy) < 1e-2


def test_squares_of_many_rows_and_of_none() -> None:
    assert squares(torch.full((3, 5_000_000), 2.0)[:, ::2]) == 3 * 2_500_000 * 4.0
    assert squares(torch.empty(0, 4)) == 0.0
