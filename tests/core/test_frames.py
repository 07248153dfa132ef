"""Frames of whole-number matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptzip.core.frames import LARGEST, MOST_ROWS, MOST_WIDTH, Whole, frame, gram, whole_rows
from adaptzip.errors import FormatError


def matrix(rows: int, width: int, largest: int = LARGEST, seed: int = 0) -> Whole:
    return np.random.default_rng(seed).integers(-largest, largest, (rows, width), endpoint=True)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 1000), (16, 513), (5, MOST_WIDTH)])
def test_the_gram_matrix_is_exact(rows: int, width: int) -> None:
    numbers = matrix(rows, width)
    assert np.array_equal(gram(numbers), numbers @ numbers.T)


def test_the_gram_matrix_of_the_largest_numbers_is_exact() -> None:
    numbers = np.full((2, MOST_WIDTH), LARGEST)
    numbers[1] = -LARGEST
    assert gram(numbers).tolist() == [[LARGEST**2 * MOST_WIDTH * sign for sign in row] for row in ((1, -1), (-1, 1))]


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (4, 4), (16, 600), (64, 1024)])
def test_a_frame_is_orthonormal_and_spans_the_rows(rows: int, width: int) -> None:
    numbers = matrix(rows, width)
    found = frame(numbers)
    assert found.shape == (width, rows)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    V = found.double().numpy()
    assert np.abs(V.T @ V - np.eye(rows)).max() < 1e-6
    rest = numbers - numbers @ V @ V.T
    assert np.linalg.norm(rest) < 1e-6 * np.linalg.norm(numbers)


def test_a_frame_is_the_one_of_the_cholesky_factor() -> None:
    numbers = matrix(7, 90)
    expected = np.linalg.solve(np.linalg.cholesky((numbers @ numbers.T).astype(float)), numbers)
    assert np.abs(frame(numbers).numpy().T - expected).max() < 1e-7


def test_rows_of_single_numbers_give_unit_vectors() -> None:
    assert torch.equal(frame(np.diag([5, -7, 1])), torch.diag(torch.tensor([1.0, -1.0, 1.0])))


@pytest.mark.parametrize("last", [[0, 0, 0, 0], [1, 2, 3, 4], [-2, -4, -6, -8]])
def test_rows_that_depend_on_others_are_refused(last: list[int]) -> None:
    with pytest.raises(FormatError, match="row 1 of a frame's matrix depends"):
        frame(np.array([[1, 2, 3, 4], last]))


def test_a_row_with_little_of_its_own_is_refused_and_with_more_is_not() -> None:
    assert frame(np.array([[1 << 12, 0], [1 << 12, 2]])).shape == (2, 2)
    with pytest.raises(FormatError, match="row 1"):
        frame(np.array([[1 << 12, 0], [1 << 12, 1]]))


@pytest.mark.parametrize("shape", [(0, 4), (3, 2), (1, MOST_WIDTH + 1), (MOST_ROWS + 1, MOST_ROWS + 1)])
def test_shapes_that_make_no_frame_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(FormatError, match=f"a frame of {shape[0]} rows of {shape[1]}"):
        frame(np.ones(shape, np.int64))


@pytest.mark.parametrize("sign", [1, -1])
def test_larger_numbers_are_refused(sign: int) -> None:
    with pytest.raises(FormatError, match="numbers beyond"):
        frame(np.array([[1, sign * (LARGEST + 1)]]))


def test_rows_become_whole_numbers_of_one_size() -> None:
    rows = whole_rows(torch.tensor([[1.0, -0.25, 0.0], [3e-7, 1e-7, -2e-7]]))
    assert rows[0].tolist() == [1 << 22, -(1 << 20), 0]
    assert rows[1].tolist() == [1 << 22, 1398101, -2796203]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_of_any_dtype_keep_their_directions(dtype: torch.dtype) -> None:
    A = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    V = frame(whole_rows(A)).double()
    assert torch.linalg.norm(A.double() - A.double() @ V @ V.T) < 1e-5


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_rows_without_a_direction_are_refused(bad: float) -> None:
    with pytest.raises(FormatError, match="row 1 of a reference"):
        whole_rows(torch.tensor([[1.0, 2.0], [bad, 0.0]]))
