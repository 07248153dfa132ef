"""Singular directions that other machines find again."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from adaptzip.bases.directions import dense_directions, stacked_directions
from adaptzip.bases.gradients import basis_from_gradients
from adaptzip.core.linalg import canonical_signs
from adaptzip.errors import RefusedError, UsageError


def weight(out: int, width: int, decay: float = 0.0, seed: int = 0) -> Tensor:
    """A random float32 weight; its spectrum falls as a power law."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(out, width, generator=generator)
    U, S, Vt = torch.linalg.svd(matrix, full_matrices=False)
    found: Tensor = (U * (S * (torch.arange(len(S)) + 1.0) ** -decay)) @ Vt
    return found


def reference(matrix: Tensor, size: int, driver: str) -> tuple[Tensor, Tensor]:
    U, _, Vt = scipy.linalg.svd(matrix.double().numpy(), full_matrices=False, lapack_driver=driver)
    u, vt = canonical_signs(torch.from_numpy(U[:, :size].copy()), torch.from_numpy(Vt[:size].copy()))
    return u, vt.T


@pytest.mark.parametrize("driver", ["gesdd", "gesvd"])
@pytest.mark.parametrize(("out", "width"), [(120, 120), (200, 60), (60, 200)])
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_directions_equal_those_of_other_drivers(driver: str, out: int, width: int, decay: float) -> None:
    matrix = weight(out, width, decay)
    U, S, V = dense_directions(matrix, 16)
    u, v = reference(matrix, 16, driver)
    assert torch.allclose(U, u, atol=1e-8, rtol=0)
    assert torch.allclose(V, v, atol=1e-8, rtol=0)
    assert np.allclose(S, np.linalg.svd(matrix.double().numpy(), compute_uv=False)[:16], rtol=1e-12)


def test_one_and_two_threads_agree() -> None:
    matrix, before = weight(300, 300, 0.5), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(dense_directions(matrix, 32))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, atol=1e-8, rtol=0)


def test_directions_below_rounding_are_zeros() -> None:
    matrix = weight(30, 5) @ weight(5, 20, seed=1)
    U, S, V = dense_directions(matrix.double(), 8)
    assert U.shape == (30, 8)
    assert float(S[4]) > 1e-3 * float(S[0])
    assert torch.equal(U[:, 5:], torch.zeros(30, 3).double())
    assert torch.equal(V[:, 5:], torch.zeros(20, 3).double())


def test_stacked_directions_are_the_left_singular_vectors() -> None:
    matrix = weight(40, 12, 0.5)
    U, S = stacked_directions(matrix, 6)
    assert torch.allclose(U, reference(matrix, 6, "gesdd")[0], atol=1e-8)
    assert torch.allclose(S, torch.linalg.svdvals(matrix.double())[:6])


def test_gradients_give_the_singular_directions_of_their_signs() -> None:
    gradient = weight(24, 18, 1.0)
    basis = basis_from_gradients({"a": gradient}, 4)
    u, v = reference(-gradient.sign(), 4, "gesdd")
    assert torch.allclose(basis.modules["a"].U.double(), u, atol=1e-6)
    assert torch.allclose(basis.modules["a"].V.double(), v, atol=1e-6)
    scaled = basis_from_gradients({"a": 1e-9 * gradient}, 4)
    assert torch.equal(scaled.modules["a"].U, basis.modules["a"].U)


def test_what_is_no_gradient_is_refused() -> None:
    with pytest.raises(UsageError, match="finite"):
        basis_from_gradients({"a": torch.tensor([[float("nan"), 1.0]])}, 1)
    with pytest.raises(UsageError, match="from 0 gradients"):
        basis_from_gradients({}, 1)
    with pytest.raises(RefusedError, match="module a is zero"):
        basis_from_gradients({"a": torch.zeros(3, 3)}, 1)
