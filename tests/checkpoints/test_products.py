"""The factors of LoHa's and LoKr's products multiply to what torch makes of the whole matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adaptzip.checkpoints._products import dense, hadamard, kronecker, tucker

KERNEL = (3, 2)


def numbers(*shape: int) -> Tensor:
    """Small whole numbers, of which every product and sum is exact."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-3, 4, shape, generator=generator).float()


def cored(a: Tensor, b: Tensor, core: Tensor) -> Tensor:
    """(out, channels, *kernel) of LyCORIS' Tucker form: a (r, out), b (r, channels), core (r, r, *kernel)."""
    return torch.einsum("ij...,ip,jc->pc...", core, a, b)


def halves(rank: int, out: int, width: int) -> dict[str, Tensor]:
    return {
        "w1_a": numbers(out, rank),
        "w1_b": numbers(rank, width),
        "w2_a": numbers(out, rank) + 1,
        "w2_b": numbers(rank, width) - 1,
    }


@pytest.mark.parametrize(("rank", "expected"), [(2, 4), (3, 9), (4, 12), (5, 12)])
def test_a_hadamard_product_has_the_product_of_the_ranks_or_full_rank(rank: int, expected: int) -> None:
    for out, width in ((12, 20), (20, 12)):
        parts = halves(rank, out, width)
        B, A = hadamard(**parts)
        assert (B.shape, A.shape) == ((out, expected), (expected, width))
        assert B.is_contiguous()
        assert A.is_contiguous()
        whole = (parts["w1_a"] @ parts["w1_b"]) * (parts["w2_a"] @ parts["w2_b"])
        torch.testing.assert_close(B @ A, whole, rtol=0, atol=0)


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("kernel", [(3,), KERNEL])
def test_a_hadamard_product_takes_its_cores_in(rank: int, kernel: tuple[int, ...]) -> None:
    w1_a, w1_b, w2_a, w2_b = numbers(rank, 12), numbers(rank, 5), numbers(rank, 12) + 1, numbers(rank, 5) - 1
    t1, t2 = numbers(rank, rank, *kernel), numbers(rank, rank, *kernel) + 2
    B, A = hadamard(w1_a, w1_b, w2_a, w2_b, t1, t2)
    whole = cored(w1_a, w1_b, t1) * cored(w2_a, w2_b, t2)
    torch.testing.assert_close((B @ A).reshape(whole.shape), whole, rtol=0, atol=0)


W1: dict[str, dict[str, Tensor]] = {
    "wide": {"w1": numbers(3, 4)},
    "tall": {"w1": numbers(4, 3)},
    "two": {"w1_a": numbers(4, 2), "w1_b": numbers(2, 5)},
    "two of more than full rank": {"w1_a": numbers(4, 6), "w1_b": numbers(6, 3)},
}
W2: dict[str, dict[str, Tensor]] = {
    "whole": {"w2": numbers(6, 7)},
    "conv": {"w2": numbers(6, 5, *KERNEL)},
    "two": {"w2_a": numbers(6, 2), "w2_b": numbers(2, 7)},
    "two of conv": {"w2_a": numbers(6, 2), "w2_b": numbers(2, 5, *KERNEL)},
    "core": {"w2_a": numbers(2, 6), "w2_b": numbers(2, 5), "t2": numbers(2, 2, *KERNEL)},
}


def side(parts: dict[str, Tensor], name: str) -> Tensor:
    if name in parts:
        return parts[name]
    a, b = parts[f"{name}_a"], parts[f"{name}_b"]
    if name == "w2" and "t2" in parts:
        return cored(a, b, parts["t2"])
    return (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])


@pytest.mark.parametrize("right", W2)
@pytest.mark.parametrize("left", W1)
def test_a_kronecker_product_is_torchs(left: str, right: str) -> None:
    B, A = kronecker(**W1[left], **W2[right])
    w1, w2 = side(W1[left], "w1"), side(W2[right], "w2")
    whole = torch.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2.contiguous())
    torch.testing.assert_close((B @ A).reshape(whole.shape), whole, rtol=0, atol=0)
    assert B.is_contiguous()
    assert A.is_contiguous()
    ranks = min(*w1.shape, 2 if left == "two" else 9) * min(w2.shape[0], 6 if "w2" in W2[right] else 2)
    assert B.shape[1] == min(ranks, *whole.flatten(1).shape)


def test_a_core_in_the_middle_of_a_plain_update() -> None:
    up, down, core = numbers(8, 2, 1, 1), numbers(3, 5, 1, 1), numbers(2, 3, *KERNEL)
    B, A = tucker(up, down, core)
    whole = torch.einsum("ijkl,oi,jc->ockl", core, up[..., 0, 0], down[..., 0, 0])
    torch.testing.assert_close((B @ A).reshape(whole.shape), whole, rtol=0, atol=0)
    assert torch.equal(B, up.flatten(1))


def test_the_smaller_side_of_a_dense_update_gets_the_identity() -> None:
    for shape in ((3, 5), (5, 3)):
        B, A = dense(numbers(*shape))
        assert torch.equal(B @ A, numbers(*shape))
        assert B.shape[1] == 3


@pytest.mark.parametrize(
    ("given", "computed"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64,) * 2]
)
def test_halves_are_multiplied_in_float32(given: torch.dtype, computed: torch.dtype) -> None:
    for w1 in (1.0 + numbers(4, 2) / 128, numbers(4, 2)):
        parts = {"w1_a": w1.to(given), "w1_b": numbers(2, 5).to(given), "w2": (1 + numbers(6, 7) / 128).to(given)}
        B, A = kronecker(**parts)
        assert B.dtype == A.dtype == computed
        whole = torch.kron(parts["w1_a"].double() @ parts["w1_b"].double(), parts["w2"].double())
        torch.testing.assert_close(B.double() @ A.double(), whole, rtol=1e-6, atol=1e-6)
    B, A = hadamard(**{name: part.to(given) for name, part in halves(2, 12, 20).items()})
    assert B.dtype == A.dtype == computed


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"w1_b": numbers(3, 20)}, r"w1_a is \[12, 2\] and w1_b is \[3, 20\], expected one rank"),
        ({"w2_b": numbers(2, 21)}, r"w1 is \[12, 20\] and w2 is \[12, 21\], expected the same shape"),
        ({"w2_a": numbers(11, 2)}, r"w1 is \[12, 20\] and w2 is \[11, 20\]"),
        ({"w2_a": numbers(12)}, r"w2_a is \[12\], expected two dimensions"),
        ({"w2_a": numbers(12, 0), "w2_b": numbers(0, 20)}, r"w2_a is \[12, 0\].* none of them empty"),
        ({"t1": numbers(2, 2, 3, 3)}, "one of t1 and t2"),
        ({"t1": numbers(2, 2), "t2": numbers(2, 2)}, r"the core is \[2, 2\], expected \(rank, rank, \*kernel\)"),
        ({"t1": numbers(2, 2, 3), "t2": numbers(2, 2, 3)}, r"the core is \[2, 2, 3\] between \[2, 12\] and \[2, 20\]"),
    ],
)
def test_what_does_not_fit_in_a_hadamard_product_is_named(parts: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hadamard(**{**halves(2, 12, 20), **parts})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"w1": numbers(2, 2)}, "has neither, expected w2, or its a and b"),
        ({"w2": numbers(2, 2)}, "has neither, expected w1, or its a and b"),
        ({"w1": numbers(2, 2), "w1_a": numbers(2, 2), "w2": numbers(2, 2)}, "has w1, w1_a, expected w1,"),
        ({"w1": numbers(2, 2), "w2_a": numbers(2, 2)}, "has w2_a, expected w2,"),
        (
            {"w1": numbers(2, 2), "w2": numbers(2, 2), "t2": numbers(2, 2, 3)},
            "has w2 with a core, expected w2, or its a and b",
        ),
        ({"w1": numbers(2), "w2": numbers(2, 2)}, r"w1 is \[2\], expected two dimensions"),
        ({"w1": numbers(2, 2), "w2_a": numbers(2, 3), "w2_b": numbers(2, 3)}, "w2_a is .* expected one rank"),
    ],
)
def test_what_does_not_fit_in_a_kronecker_product_is_named(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kronecker(**parts)
