"""TT-SVD in batches: tensorly as the oracle, orthonormal cores, ranks, tolerances, and singular values of bonds."""

from __future__ import annotations

from math import prod, sqrt

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import tensor_train
from torch import Tensor

from adaptzip.errors import UsageError
from adaptzip.methods._trains import contract, spectra, tt_svd


def random(n: int, modes: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    strength = 0.9 ** torch.arange(prod(modes), dtype=torch.float64)
    return (torch.randn(n, prod(modes), generator=generator, dtype=torch.float64) * (strength + 0.01)).to(dtype)


def error(tensors: Tensor, cores: list[Tensor]) -> Tensor:
    """(n,) relative errors."""
    found: Tensor = (contract(cores)[:, :, 0].double() - tensors.double()).norm(dim=1) / tensors.double().norm(dim=1)
    return found


def oracle(tensor: Tensor, modes: tuple[int, ...], rank: int) -> float:
    with tensorly.backend_context("pytorch"):
        train = tensor_train(tensor.reshape(modes), rank=[1, *[rank] * (len(modes) - 1), 1])
        whole = tensorly.tt_to_tensor(train).reshape(-1)
    return float((whole - tensor).norm() / tensor.norm())


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 3),
    st.lists(st.integers(1, 7), min_size=2, max_size=5).map(tuple),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_the_error_is_tensorlys(n: int, modes: tuple[int, ...], rank: int, seed: int) -> None:
    tensors = random(n, modes, seed)
    found = error(tensors, tt_svd(tensors, modes, rank))
    for i in range(n):
        assert float(found[i]) == pytest.approx(oracle(tensors[i], modes, rank), abs=1e-5)


@pytest.mark.parametrize("modes", [(6, 5, 4, 3), (43, 4, 2), (13, 11), (60,), (1, 1, 7)])
def test_cores_fit_together_and_are_orthonormal_but_the_last(modes: tuple[int, ...]) -> None:
    tensors = random(2, modes, 1)
    cores = tt_svd(tensors, modes, 4)
    assert [core.shape[2] for core in cores] == list(modes)
    assert cores[0].shape[1] == cores[-1].shape[3] == 1
    for before, after in zip(cores, cores[1:], strict=False):
        assert before.shape[3] == after.shape[1] <= 4
        columns = before.flatten(1, 2)
        torch.testing.assert_close(columns.mT @ columns, torch.eye(columns.shape[2]).double().expand(2, -1, -1))


def test_without_a_bound_nothing_is_lost() -> None:
    tensors = random(3, (5, 4, 3, 4), 2)
    assert float(error(tensors, tt_svd(tensors, (5, 4, 3, 4))).max()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_its_tensors_one_by_one(dtype: torch.dtype) -> None:
    tensors = random(7, (4, 6, 5), 3, dtype)
    together = error(tensors, tt_svd(tensors, (4, 6, 5), 3))
    alone = [error(tensors[i : i + 1], tt_svd(tensors[i : i + 1], (4, 6, 5), 3)) for i in range(7)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_threads_change_nothing() -> None:
    tensors = random(9, (4, 6, 5), 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = tt_svd(tensors, (4, 6, 5), 3)
        torch.set_num_threads(2)
        two = tt_svd(tensors, (4, 6, 5), 3)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(contract(one), contract(two))


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 0.01, 1e-6])
def test_a_tolerance_is_kept_with_fewer_numbers(tolerance: float) -> None:
    modes = (6, 5, 4, 6)
    tensors = random(4, modes, 4)
    cores = tt_svd(tensors, modes, tolerance=tolerance)
    assert float(error(tensors, cores).max()) <= tolerance
    if tolerance == 0.5:
        assert sum(core[0].numel() for core in cores) < sum(core[0].numel() for core in tt_svd(tensors, modes))


def test_ranks_may_differ_by_bond_and_none_is_larger_than_it_can_be() -> None:
    tensors = random(2, (3, 4, 5), 5)
    assert [core.shape[3] for core in tt_svd(tensors, (3, 4, 5), (2, 3))] == [2, 3, 1]
    assert [core.shape[3] for core in tt_svd(tensors, (3, 4, 5), 99)] == [3, 5, 1]


def test_zero_tensors_are_zero_trains() -> None:
    cores = tt_svd(torch.zeros(2, 24), (4, 6), 3)
    assert not contract(cores).any()
    assert torch.isfinite(cores[0]).all()


def test_float64_accumulation_finds_what_float32_loses() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(64, 8, generator=generator, dtype=torch.float64))[0]
    matrix = (left * 10.0 ** -torch.arange(8)) @ right.T
    tensors = matrix.reshape(1, -1).float()
    rough, fine = (tt_svd(tensors, (8, 64), 6, accumulate=dtype) for dtype in (None, torch.float64))
    best = sqrt(sum(10.0 ** (-2 * i) for i in (6, 7)))
    assert float((contract(fine)[0, :, 0] - tensors[0]).norm()) < 1.1 * best
    assert float(error(tensors, fine)) <= float(error(tensors, rough))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple), st.integers(1, 5), st.integers(0, 99))
def test_spectra_bound_the_error(modes: tuple[int, ...], rank: int, seed: int) -> None:
    tensors = random(2, modes, seed)
    values = spectra(tensors, modes)
    for i, found in enumerate(values, 1):
        unfolding = tensors.reshape(2, prod(modes[:i]), -1)
        torch.testing.assert_close(found, torch.linalg.svdvals(unfolding), atol=1e-6, rtol=1e-6)
    cut = sum(found[:, rank:].square().sum(1) for found in values)
    assert bool(((error(tensors, tt_svd(tensors, modes, rank)) * tensors.norm(dim=1)).square() <= cut + 1e-10).all())


@pytest.mark.parametrize(
    ("shape", "modes", "rank"),
    [((2, 12), (3, 5), 2), ((2, 12), (), 2), ((12,), (3, 4), 2), ((2, 12), (3, 4), 0), ((2, 12), (3, 4), (1, 1))],
)
def test_what_does_not_fit_is_named(shape: tuple[int, ...], modes: tuple[int, ...], rank: int) -> None:
    with pytest.raises(UsageError, match="expected"):
        tt_svd(torch.zeros(shape), modes, rank)
