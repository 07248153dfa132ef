"""Directions from a Krylov space are those of the whole decomposition, or there are none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptzip.bases import directions, krylov
from adaptzip.bases.directions import dense_directions
from adaptzip.bases.krylov import is_few, leading_directions, times, turned_times
from adaptzip.core.linalg import canonical_signs
from adaptzip.core.workers import on_one_core, parallel_map

STEEP = [4.0, 2.5, 1.8, 1.4, *((1 + i / 10) ** -1.0 for i in range(300))]


@pytest.fixture
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Krylov space is tried for every matrix."""
    monkeypatch.setattr(krylov, "NARROWEST", 0)
    monkeypatch.setattr(krylov, "LARGEST_SHARE", 1.0)


def with_values(values: Sequence[float], out: int, width: int, seed: int = 0) -> Tensor:
    """A float64 matrix of these singular values, between random directions."""
    drawn = torch.Generator().manual_seed(seed)
    count = min(len(values), out, width)
    U, V = (torch.linalg.qr(torch.randn(n, count, generator=drawn).double()).Q for n in (out, width))
    found: Tensor = (U * torch.tensor(values[:count]).double()) @ V.T
    return found


def assert_those_of_the_whole(matrix: Tensor, size: int) -> None:
    """Values that are not small to 1e-10 of the largest, pairs that map to each other, vectors where gaps allow."""
    U, S, V = dense_directions(matrix, size)
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    count, largest = min(size, *matrix.shape), float(s[0])
    kept = s[:count] > 2 * directions.SMALLEST * largest
    assert torch.allclose(S[kept], s[:count][kept], atol=1e-10 * largest, rtol=0)
    assert bool((S[~kept] <= 3 * directions.SMALLEST * largest).all())
    for side in (U, V):
        used = side[:, kept]
        assert torch.allclose(used.T @ used, torch.eye(used.shape[1]).double(), atol=1e-8)
    left = matrix.double() @ V[:, kept] - U[:, kept] * S[kept]
    assert float(left.norm(dim=0).max() if left.shape[1] else 0.0) <= 1e-8 * largest
    u, vt = canonical_signs(u, vt)
    steps = torch.cat([torch.full((1,), largest), s[:-1] - s[1:], s[-1:]])
    alone = torch.minimum(steps[:count], steps[1 : count + 1]) > 1e-3 * largest
    assert torch.allclose(V[:, alone & kept], vt.T[:, :count][:, alone & kept], atol=1e-8)
    assert torch.allclose(U[:, alone & kept], u[:, :count][:, alone & kept], atol=1e-8)


@pytest.mark.parametrize(("out", "width"), [(480, 480), (700, 480), (480, 700)])
@pytest.mark.parametrize("size", [1, 9, 20])
@pytest.mark.usefixtures("every_size")
def test_few_directions_are_those_of_the_whole(out: int, width: int, size: int) -> None:
    matrix = with_values(STEEP, out, width)
    tall = matrix if out >= width else matrix.T.contiguous()
    assert leading_directions(tall, size) is not None
    assert_those_of_the_whole(matrix, size)
    assert_those_of_the_whole(matrix.float(), size)
    assert_those_of_the_whole(matrix.bfloat16(), size)


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.usefixtures("every_size")
def test_equal_values_have_their_space(size: int) -> None:
    matrix = with_values([3.0] * 3 + STEEP[1:], 500, 480)
    found = leading_directions(matrix, size)
    assert found is not None
    assert_those_of_the_whole(matrix, size)
    _, _, V = dense_directions(matrix, 3)
    _, _, vt = torch.linalg.svd(matrix)
    assert torch.allclose(V @ V.T, vt[:3].T @ vt[:3], atol=1e-8)


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 480,
        [0.0] * 480,
        [3.0] * 9 + STEEP,
        [5.0, *[3.0] * 12, *STEEP],
        STEEP[:5],
        [1 - i / 1e5 for i in range(480)],
    ],
    ids=["all equal", "zero", "nine equal", "twelve equal", "rank five", "flat"],
)
@pytest.mark.usefixtures("every_size")
def test_without_certificate_the_whole_is_decomposed(values: list[float]) -> None:
    matrix = with_values(values, 500, 480)
    assert leading_directions(matrix, 12) is None
    assert_those_of_the_whole(matrix, 12)


@pytest.mark.usefixtures("every_size")
def test_a_space_that_is_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rubbish = torch.linalg.qr(torch.randn(480, 10, generator=torch.Generator().manual_seed(5)).double()).Q
    monkeypatch.setattr(directions, "leading_directions", lambda matrix, count: rubbish[:, : count + 1])
    assert_those_of_the_whole(with_values(STEEP, 500, 480), 9)


@settings(max_examples=60, deadline=None)
@given(
    out=st.integers(1, 40),
    width=st.integers(1, 40),
    values=st.lists(st.sampled_from([0.0, 1e-9, 0.5, 0.5000001, 1.0, 2.0, 3.0]), min_size=1, max_size=20),
    size=st.integers(1, 45),
    seed=st.integers(0, 3),
)
def test_any_small_matrix(out: int, width: int, values: list[float], size: int, seed: int) -> None:
    """One row or column, rank-deficient ones, zero ones, equal values, and more directions than there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(krylov, "NARROWEST", 0)
        patch.setattr(krylov, "LARGEST_SHARE", 1.0)
        assert_those_of_the_whole(with_values(sorted(values, reverse=True), out, width, seed), size)


@settings(max_examples=15, deadline=None)
@given(
    extra=st.integers(0, 200),
    leading=st.lists(st.sampled_from([1.5, 2.0, 2.0 + 1e-9, 3.0, 8.0]), max_size=24),
    size=st.integers(1, 20),
    turned=st.booleans(),
)
def test_any_large_matrix(extra: int, leading: list[float], size: int, turned: bool) -> None:
    """Repeated and nearly repeated values above a falling spectrum: never a wrong one, never one missed."""
    matrix = with_values(sorted(leading, reverse=True) + STEEP[3:], 400 + extra, 400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(krylov, "NARROWEST", 0)
        patch.setattr(krylov, "LARGEST_SHARE", 1.0)
        assert_those_of_the_whole(matrix.T if turned else matrix, size)


@pytest.mark.usefixtures("every_size")
def test_bytes_do_not_depend_on_the_number_of_threads() -> None:
    matrices = [with_values(STEEP, 500, 480, seed) for seed in range(2)]

    @on_one_core()
    def found() -> list[tuple[Tensor, Tensor, Tensor]]:
        return list(parallel_map(lambda matrix: dense_directions(matrix, 12), matrices))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = found()
        torch.set_num_threads(2)
        two = found()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 300])
def test_products_are_those_of_the_float64_matrix(rows: int) -> None:
    drawn = torch.Generator().manual_seed(1)
    matrix = torch.randn(rows, 33, generator=drawn)
    right, left = torch.randn(33, 5, generator=drawn).double(), torch.randn(rows, 5, generator=drawn).double()
    assert torch.allclose(times(matrix, right), matrix.double() @ right, rtol=1e-13, atol=1e-13)
    assert torch.allclose(turned_times(matrix, left), matrix.double().T @ left, rtol=1e-13, atol=1e-13)


def test_few_are_a_small_share_of_a_wide_matrix() -> None:
    assert is_few(17, 4096)
    assert is_few(128, 4096)
    assert not is_few(129, 4096)
    assert not is_few(1, krylov.NARROWEST - 1)
