"""Tensors that are not quantised: kept bit for bit, or rounded as asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptzip.adz.coding.packing import (
    INT8_ROWS,
    ExtrasMode,
    narrowest,
    pack_factors,
    pack_tensors,
    unpack_factors,
    unpack_tensors,
)
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.comparing import same_bits
from adaptzip.core.compressed import Site
from adaptzip.files.dtypes import DTYPES

FLOATS = ("F64", "F32", "F16", "BF16")
SPECIAL = [0x7FC00000, 0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x80000000, 0, 1, 0x7F7FFFFF]
"""float32 words: NaNs with and without payload, infinities, -0, 0, the smallest and the largest number."""


def words(numbers: list[int]) -> Tensor:
    """float32 from its bits."""
    signed = [n - 2**32 if n >= 2**31 else n for n in numbers]
    return torch.tensor(signed, dtype=torch.int32).view(torch.float32)


def back(tensor: Tensor, mode: ExtrasMode = "lossless") -> tuple[Tensor, str]:
    """A tensor after packing, and how it was kept."""
    packed = pack_tensors([("extra", "t", tensor)], mode)
    return unpack_tensors(packed)[0], packed.entries[0].stored


memory = st.tuples(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 4), max_size=3),
    st.binary(min_size=512, max_size=512),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(memory, max_size=6))
def test_any_memory_comes_back(parts: list[tuple[str, list[int], bytes]]) -> None:
    tensors = []
    for name, shape, data in parts:
        size = torch.Size(shape).numel() * DTYPES[name].itemsize
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)[:size]
        tensors.append((raw % 2 if name == "BOOL" else raw).clone().view(DTYPES[name]).reshape(shape))
    packed = pack_tensors([("extra", str(i), tensor) for i, tensor in enumerate(tensors)])
    assert all(same_bits(a, b) for a, b in zip(tensors, unpack_tensors(packed), strict=True))


@pytest.mark.parametrize("mode", ["lossless", "float16", "bfloat16", "int8"])
def test_tensors_with_nan_are_never_rounded(mode: ExtrasMode) -> None:
    tensor = words(SPECIAL * 5).reshape(5, -1)
    again, stored = back(tensor, mode)
    assert stored == "F32"
    assert same_bits(again, tensor)


@pytest.mark.parametrize(
    ("tensor", "stored"),
    [
        (torch.tensor([1.0, -2.5, 3e38]).bfloat16().float(), "BF16"),
        (torch.tensor([1.0, 1025 / 1024, -0.0]), "F16"),
        (torch.tensor([1.0, 1 + 2**-20]), "F32"),
        (words([0x80000000, 0, 0x7F800000]), "BF16"),
        (torch.tensor([1e-40]), "F32"),
        (torch.tensor([1.0]).double(), "F64"),
        (torch.tensor([1.0]).half(), "F16"),
        (torch.empty(0), "F32"),
    ],
)
def test_the_narrowest_exact_dtype_is_kept(tensor: Tensor, stored: str) -> None:
    again, kept = back(tensor)
    assert kept == stored
    assert narrowest(tensor) is DTYPES[stored]
    assert same_bits(again, tensor)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("mode", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_floats_are_rounded_as_asked(name: str, mode: ExtrasMode, dtype: torch.dtype) -> None:
    tensor = (torch.randn(9, 7, generator=torch.Generator().manual_seed(0)) * 5).to(DTYPES[name])
    again, _ = back(tensor, mode)
    expected = tensor if tensor.dtype.itemsize == 2 else tensor.to(dtype).to(tensor.dtype)
    assert same_bits(again, expected) or same_bits(again, tensor.to(dtype).to(tensor.dtype))
    assert torch.allclose(again.double(), tensor.double(), rtol=2**-8)


@pytest.mark.parametrize("name", FLOATS)
def test_int8_rows_are_close_in_units_of_their_largest_number(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = (torch.randn(6, 5, 8, generator=generator) * 10.0 ** torch.arange(6)[:, None, None] / 1e3).to(DTYPES[name])
    tensor[3] = 0
    again, stored = back(tensor, "int8")
    assert stored == INT8_ROWS
    assert again.dtype == tensor.dtype
    error = (again.double() - tensor.double()).abs().amax((1, 2))
    largest = tensor.double().abs().amax((1, 2))
    assert (error <= largest * (0.5 / 127 + 2**-8)).all()
    assert not again[3].any()


@pytest.mark.parametrize(
    "tensor", [torch.tensor(2.5), torch.randn(7), torch.empty(0, 3), torch.tensor([[1e39]]).double()]
)
def test_what_int8_does_not_suit_is_kept_in_another_way(tensor: Tensor) -> None:
    again, stored = back(tensor, "int8")
    assert stored != INT8_ROWS
    assert torch.allclose(again, tensor, rtol=1e-3)


def test_numbers_too_large_for_float16_are_not_lost() -> None:
    tensor = torch.tensor([1.0, 70000.5])
    again, stored = back(tensor, "float16")
    assert stored == "F32"
    assert same_bits(again, tensor)


@pytest.mark.parametrize("mode", ["float16", "bfloat16", "int8"])
def test_whole_numbers_and_small_floats_are_never_rounded(mode: ExtrasMode) -> None:
    for name, dtype in DTYPES.items():
        if name not in FLOATS:
            tensor = (torch.arange(12) % 2).to(dtype).reshape(3, 4)
            assert same_bits(back(tensor, mode)[0], tensor)


def test_zeros_take_next_to_nothing() -> None:
    packed = pack_tensors([("extra", "t", torch.zeros(1000, 1000))])
    assert len(packed.payload) < 400
    assert same_bits(unpack_tensors(packed)[0], torch.zeros(1000, 1000))


def test_trained_weights_take_less_than_their_bytes() -> None:
    tensor = torch.randn(200, 300, generator=torch.Generator().manual_seed(0)) * 0.02
    assert len(pack_tensors([("extra", "t", tensor)]).payload) < 0.9 * tensor.nbytes


def test_views_are_packed_as_they_are_seen() -> None:
    tensor = torch.arange(24.0).reshape(4, 6).T[1:4]
    assert same_bits(back(tensor)[0], tensor.contiguous())
    assert same_bits(back(torch.arange(9.0, requires_grad=True))[0], torch.arange(9.0))


@pytest.mark.parametrize("rank", [0, 1, 9])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float64, torch.float16)])
def test_factors_come_back(rank: int, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    module = LoraFactors(torch.randn(rank, 6).to(dtypes[0]), torch.randn(4, rank).to(dtypes[1]), 1 / 3)
    again = unpack_factors(pack_factors(module), Site(4, 6), "m")
    assert same_bits(again.A, module.A)
    assert same_bits(again.B, module.B)
    assert again.scaling == module.scaling
