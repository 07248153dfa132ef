"""Factors, their shapes and dtypes, and how an update lies in each layout of the base weight."""

from __future__ import annotations

import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError

A = torch.tensor([[1.0, 0.0, 2.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 3.0, 1.0, 0.0]])
B = torch.tensor([[1.0, 2.0], [0.0, 1.0], [4.0, 0.0]])
PRODUCT = torch.tensor([[1.0, 2, 2, 6, 3, 1], [0, 1, 0, 3, 1, 0], [4, 0, 8, 0, 4, 4]])


def test_counts_and_shapes_are_those_of_the_factors() -> None:
    module = LoraFactors(A, B)
    assert module.rank == 2
    assert module.shape == (3, 6)
    assert module.parameters == 2 * 6 + 3 * 2


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.zeros(6), torch.zeros(3, 2)),
        (torch.zeros(2, 6), torch.zeros(2)),
        (torch.zeros(2, 6, 1), torch.zeros(3, 2)),
        (torch.zeros(2, 6), torch.zeros(3, 2, 1)),
        (torch.zeros(2, 6), torch.zeros(3, 3)),
        (torch.zeros(3, 6), torch.zeros(3, 2)),
    ],
)
def test_factors_that_do_not_fit_together_are_refused(left: torch.Tensor, right: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match="factors do not fit together"):
        LoraFactors(left, right)


def test_a_rank_of_zero_is_an_update_of_zero() -> None:
    assert torch.equal(LoraFactors(A[:0], B[:, :0]).delta(), torch.zeros(3, 6))


def test_the_update_is_scaled() -> None:
    assert torch.equal(LoraFactors(A, B).delta(), PRODUCT)
    assert torch.equal(LoraFactors(A, B, 0.25).delta(), PRODUCT / 4)


@pytest.mark.parametrize(
    ("of_a", "of_b", "of_update"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.bfloat16, torch.float64),
    ],
)
def test_an_update_is_float32_or_wider(of_a: torch.dtype, of_b: torch.dtype, of_update: torch.dtype) -> None:
    module = LoraFactors(A.to(of_a), B.to(of_b))
    assert module.delta().dtype == of_update
    assert {part.dtype for part in module.svd()} == {of_update}
    assert torch.equal(module.delta(), PRODUCT.to(of_update))


def test_the_svd_is_scaled_too() -> None:
    U, S, Vt = LoraFactors(A, B, -0.5).svd()
    torch.testing.assert_close((U * S) @ Vt, PRODUCT * -0.5)
    assert (S >= 0).all()


@pytest.mark.parametrize("layout", ["linear", "expert"])
def test_most_weights_lie_as_the_update_does(layout: Layout) -> None:
    assert torch.equal(LoraFactors(A, B, layout=layout).weight_delta(), PRODUCT)


@pytest.mark.parametrize("layout", ["transposed", "embedding", "expert_transposed"])
def test_turned_weights_are_in_by_out(layout: Layout) -> None:
    assert torch.equal(LoraFactors(A, B, layout=layout).weight_delta(), PRODUCT.T)


@pytest.mark.parametrize(("kernel", "shape"), [((3,), (3, 2, 3)), ((1, 3), (3, 2, 1, 3)), ((2, 3), (3, 1, 2, 3))])
def test_a_convolutions_update_has_its_kernel(kernel: tuple[int, ...], shape: tuple[int, ...]) -> None:
    found = LoraFactors(A, B, layout="conv", kernel=kernel).weight_delta()
    assert found.shape == shape
    assert torch.equal(found.flatten(1), PRODUCT)


def test_an_adapter_counts_its_factors_and_no_extras() -> None:
    adapter = Adapter({"a": LoraFactors(A, B), "b": LoraFactors(A[:1], B[:, :1])}, {"head": torch.zeros(50)})
    assert adapter.parameters == 18 + 9
    assert Adapter({}).parameters == 0
    assert (adapter.meta, adapter.meta.dialect) == (Meta(), "peft")


def test_factors_stay_as_they_were_made() -> None:
    with pytest.raises(AttributeError):
        LoraFactors(A, B).scaling = 2.0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Meta().dialect = "kohya"  # type: ignore[misc]
