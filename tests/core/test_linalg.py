"""The factored SVD against the dense one, canonical signs, batching by shape and device choice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.batching import group_by_shape
from adaptzip.core.linalg import canonical_signs, choose_device, factored_svd
from adaptzip.errors import UsageError


def factors(out: int, width: int, rank: int, seed: int = 0) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors(torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator), 0.5)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 24),
    st.floats(-4, 4, allow_nan=False),
    st.integers(0, 99),
)
def test_factored_svd_agrees_with_the_dense_svd(
    n: int, out: int, width: int, rank: int, scaling: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, rank, width, generator=generator)
    B = torch.randn(n, out, rank, generator=generator)
    U, S, Vt = factored_svd(A, B, scaling, dtype=torch.float64)
    dense = (B.double() @ A.double()) * scaling
    k = min(rank, out, width)
    assert (U.shape, S.shape, Vt.shape) == ((n, out, k), (n, k), (n, k, width))
    torch.testing.assert_close((U * S[:, None]) @ Vt, dense, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(S, torch.linalg.svdvals(dense)[:, :k], rtol=1e-10, atol=1e-10)
    identity = torch.eye(k, dtype=torch.float64).expand(n, k, k)
    torch.testing.assert_close(U.mT @ U, identity, rtol=0, atol=1e-10)
    torch.testing.assert_close(Vt @ Vt.mT, identity, rtol=0, atol=1e-10)
    assert (U.gather(1, U.abs().argmax(1, keepdim=True)) > 0).all()


def test_each_matrix_of_a_batch_has_its_own_scaling() -> None:
    A, B = torch.randn(2, 3, 9), torch.randn(2, 7, 3)
    _, S, _ = factored_svd(A, B, torch.tensor([2.0, 0.25]))
    torch.testing.assert_close(S[0], factored_svd(A[:1], B[:1], 2.0)[1][0])
    torch.testing.assert_close(S[1], factored_svd(A[1:], B[1:], 0.25)[1][0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_factors_are_computed_in_float32(dtype: torch.dtype) -> None:
    A, B = torch.randn(1, 4, 30, dtype=dtype), torch.randn(1, 20, 4, dtype=dtype)
    U, S, Vt = factored_svd(A, B)
    assert U.dtype == S.dtype == Vt.dtype == torch.float32
    torch.testing.assert_close((U * S[:, None]) @ Vt, B.float() @ A.float(), rtol=1e-4, atol=1e-5)


def test_a_zero_update_has_zero_singular_values_and_orthonormal_vectors() -> None:
    U, S, Vt = factored_svd(torch.randn(1, 4, 10), torch.zeros(1, 8, 4))
    assert (S == 0).all()
    torch.testing.assert_close(U[0].T @ U[0], torch.eye(4))
    torch.testing.assert_close(Vt[0] @ Vt[0].T, torch.eye(4), atol=1e-5, rtol=0)


def test_canonical_signs_break_ties_by_index() -> None:
    U = torch.tensor([[-0.5, 0.1], [0.5, 0.9], [0.5, -0.9], [-0.5, 0.2]])
    Vt = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    flipped, partner = canonical_signs(U, Vt)
    assert flipped[:, 0].tolist() == [0.5, -0.5, -0.5, 0.5]
    assert torch.equal(flipped[:, 1], U[:, 1])
    assert partner.tolist() == [[-1.0, -2.0], [3.0, 4.0]]


@pytest.mark.parametrize(("out", "width", "rank"), [(40, 30, 4), (3, 30, 8), (30, 3, 8)])
def test_lora_factors_svd_is_the_svd_of_delta(out: int, width: int, rank: int) -> None:
    module = factors(out, width, rank)
    U, S, Vt = module.svd()
    assert S.shape == (min(out, width, rank),)
    torch.testing.assert_close((U * S) @ Vt, module.delta(), rtol=1e-4, atol=1e-5)


def test_groups_hold_equal_shapes_and_stay_under_the_limit() -> None:
    modules = {f"a{i}": factors(8, 8, 2) for i in range(5)} | {"b": factors(16, 8, 2), "c": factors(8, 8, 3)}
    assert group_by_shape(modules) == [["a0", "a1", "a2", "a3", "a4"], ["b"], ["c"]]
    two_at_once = 2 * 4 * 2 * (8 + 8)
    assert group_by_shape(modules, working_bytes=two_at_once)[:3] == [["a0", "a1"], ["a2", "a3"], ["a4"]]
    assert [len(g) for g in group_by_shape(modules, working_bytes=1)] == [1] * 7
    assert group_by_shape({}) == []


def test_choose_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "cuda:", "cuda:x", "gpu", "mps", "mps:0", torch.device("mps"), ""])
def test_an_absent_or_unknown_device_is_a_usage_error(name: str | torch.device) -> None:
    with pytest.raises(UsageError) as error:
        choose_device(name)
    assert error.value.hint


def test_canonical_signs_of_an_entry_first_and_last() -> None:
    """The largest entry may stand anywhere in its column, the last included, and a zero column stays."""
    U = torch.tensor([[[-3.0, 1.0, 0.0], [2.0, -4.0, 0.0]]])
    Vt = torch.tensor([[[1.0], [2.0], [3.0]]])
    flipped, partner = canonical_signs(U, Vt)
    assert flipped.tolist() == [[[3.0, -1.0, 0.0], [-2.0, 4.0, 0.0]]]
    assert partner.tolist() == [[[-1.0], [-2.0], [3.0]]]


def test_a_batch_may_have_a_scaling_each() -> None:
    A, B = torch.randn(3, 2, 5), torch.randn(3, 4, 2)
    scaling = torch.tensor([1.0, 0.0, -2.0])
    U, S, Vt = factored_svd(A, B, scaling)
    torch.testing.assert_close((U * S[:, None]) @ Vt, (B @ A) * scaling[:, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("present", "name", "found"),
    [
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (2, torch.device("cuda", 1), "cuda:1"),
        (2, torch.device("cpu", 0), "cpu"),
        (0, "auto", "cpu"),
    ],
)
def test_devices_that_are_there(
    monkeypatch: pytest.MonkeyPatch, present: int, name: str | torch.device, found: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    assert choose_device(name) == torch.device(found)


@pytest.mark.parametrize(
    ("present", "name", "what"),
    [
        (2, "cuda:2", "not present: torch sees 2 CUDA devices"),
        (1, "cuda:1", "not present: torch sees 1 CUDA devices"),
        (0, "cuda", "not present: torch sees 0 CUDA devices"),
        (0, "cuda:0", "not present: torch sees 0 CUDA devices"),
        (2, "cuda:", "unknown"),
        (2, "cuda1", "unknown"),
        (2, "cpu:0", "unknown"),
        (2, "meta:0", "unknown"),
        (2, torch.device("meta"), "unknown"),
        (2, "mps", "float64, which Apple's GPUs lack"),
        (2, "cuda:-1", "unknown"),
    ],
)
def test_devices_that_are_not(
    monkeypatch: pytest.MonkeyPatch, present: int, name: str | torch.device, what: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    with pytest.raises(UsageError, match=what):
        choose_device(name)


def test_devices_are_not_counted_where_cuda_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is too old lists devices that torch can't use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device() == torch.device("cpu")
