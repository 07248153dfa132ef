"""Bounds of blocks and packed tensors, each at its last allowed value and at the first beyond (formats/adz-1.md)."""

from __future__ import annotations

import struct
from math import inf, nan

import numpy as np
import pytest
import torch
import zstandard

from adaptzip import methods
from adaptzip.adz.coding import entropy, planes
from adaptzip.adz.coding.coders import Coder
from adaptzip.adz.coding.decoding import decode_module, decode_ranked, decode_shared
from adaptzip.adz.coding.entropy import Whole, size_of
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.modules import code_as_they_are, rounded
from adaptzip.adz.coding.packing import (
    check_finite,
    pack_basis,
    pack_factors,
    pack_tensors,
    unpack_basis,
    unpack_factors,
    unpack_tensors,
)
from adaptzip.adz.coding.tables import Class
from adaptzip.adz.coding.trellis import Quantised, values
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.compressed import ExtraEntry, PackedExtras, Site, TensorSpec
from adaptzip.core.method import AnyMethod
from adaptzip.errors import CheckFailedError, FormatError
from adaptzip.files.dtypes import DTYPES


def entry(dtype: str, stored: str, *shape: int) -> ExtraEntry:
    return ExtraEntry("extra", "t", dtype, shape, stored)


@pytest.mark.parametrize("payload", [b"", b"\0"])
def test_a_byte_stands_for_at_most_65536_and_a_mebibyte(payload: bytes) -> None:
    most = 2**20 + 65536 * len(payload)
    with pytest.raises(FormatError, match="truncated"):
        unpack_tensors(PackedExtras((entry("U8", "U8", most),), payload))
    with pytest.raises(FormatError, match=f"{len(payload)} bytes cannot hold {most + 1}"):
        unpack_tensors(PackedExtras((entry("U8", "U8", most + 1),), payload))
    with pytest.raises(FormatError, match=f"cannot hold {most + 4}"):
        unpack_tensors(PackedExtras((entry("F32", "F32", most // 4), entry("F32", "F32", 1)), payload))


@pytest.mark.parametrize(
    ("dtype", "stored", "shape", "allowed"),
    [
        ("F32", "F16", (2, 3), True),
        ("F64", "BF16", (2, 3), True),
        ("BF16", "F16", (2, 3), True),
        ("F32", "F64", (2, 3), False),
        ("F64", "F32", (2, 3), False),
        ("I64", "F16", (2, 3), False),
        ("F32", "Q8", (2, 3), True),
        ("F32", "Q8", (2, 1, 3), True),
        ("F32", "Q8", (1, 1), True),
        ("F32", "Q8", (3,), False),
        ("F32", "Q8", (0, 3), False),
        ("I8", "Q8", (2, 3), False),
        ("X9", "X9", (2, 3), False),
    ],
)
def test_what_may_be_kept_as_what(dtype: str, stored: str, shape: tuple[int, ...], allowed: bool) -> None:
    said = "truncated" if allowed else "cannot be kept as"
    with pytest.raises(FormatError, match=said):
        unpack_tensors(PackedExtras((entry(dtype, stored, *shape),), b""))


def test_int8_rows_are_whole_parts_of_their_largest_number() -> None:
    """127 parts: exact for multiples of a 127th, to the nearest for others, ties to even."""
    tensor = torch.tensor([[127.0, -127.0, 3.0, 0.4], [254.0, -2.0, 5.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    packed = pack_tensors([("extra", "t", tensor)], "int8")
    wanted = [[127.0, -127.0, 3.0, 0.0], [254.0, -2.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]]
    assert unpack_tensors(packed)[0].tolist() == wanted


def test_numbers_that_round_to_infinity_are_kept_as_they_are() -> None:
    for mode in ("float16", "bfloat16"):
        packed = pack_tensors([("extra", "t", torch.tensor([3.4e38, 1.0000001]))], mode)
        assert packed.entries[0].stored == "F32"
    infinite = pack_tensors([("extra", "t", torch.tensor([inf, 1.1]))], "float16")
    assert infinite.entries[0].stored == "F16"


def test_a_packed_bool_is_zero_or_one() -> None:
    flags = pack_tensors([("extra", "t", torch.tensor([True, False]))])
    assert unpack_tensors(flags)[0].tolist() == [True, False]
    raw = planes.pack(np.array([2, 0], dtype=np.uint8), floating=False)
    with pytest.raises(FormatError, match="neither 0 nor 1"):
        unpack_tensors(PackedExtras(flags.entries, raw))


def test_packed_tensors_leave_no_byte_over() -> None:
    packed = pack_tensors([("extra", "t", torch.arange(5))])
    with pytest.raises(FormatError, match="bytes are left over"):
        unpack_tensors(PackedExtras(packed.entries, bytes(packed.payload) + b"\0"))


def test_finite_numbers_may_have_a_sum_that_is_not() -> None:
    check_finite(torch.tensor([3e38, 3e38]), "x")
    check_finite(torch.empty(0), "x")
    for wrong in (inf, -inf, nan):
        with pytest.raises(FormatError, match="x holds NaN or infinity"):
            check_finite(torch.tensor([1.0, wrong]), "x")


MODULE = LoraFactors(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.1], [0.2]]), 0.75)
SITE = Site(2, 3)


def test_exact_blocks_begin_with_scaling_rank_and_dtypes() -> None:
    block = pack_factors(MODULE)
    codes = [list(DTYPES).index(name) for name in ("F32", "F32", "BF16", "F32")]
    assert struct.unpack("<dI4B", block[:16]) == (0.75, 1, *codes)
    again = unpack_factors(block, SITE, "m")
    assert (again.A.tolist(), again.B.tolist(), again.scaling) == (MODULE.A.tolist(), MODULE.B.tolist(), 0.75)


@pytest.mark.parametrize("length", [0, 15])
def test_exact_blocks_that_are_cut(length: int) -> None:
    with pytest.raises(FormatError, match="module 'm': its block is truncated"):
        unpack_factors(pack_factors(MODULE)[:length], SITE, "m")


@pytest.mark.parametrize(
    ("place", "form", "item"),
    [(0, "<d", inf), (0, "<d", nan), (12, "B", len(DTYPES)), (13, "B", 255), (14, "B", len(DTYPES)), (15, "B", 99)],
)
def test_exact_blocks_with_impossible_heads(place: int, form: str, item: float) -> None:
    block = bytearray(pack_factors(MODULE))
    struct.pack_into(form, block, place, item)
    with pytest.raises(FormatError, match="an unknown dtype or an impossible scaling"):
        unpack_factors(bytes(block), SITE, "m")


@pytest.mark.parametrize("place", [12, 13])
def test_exact_factors_are_floats(place: int) -> None:
    block = bytearray(pack_factors(MODULE))
    block[place] = list(DTYPES).index("I8")
    with pytest.raises(FormatError, match="its factors are F32 and I8, expected F64, F32, F16, BF16"):
        unpack_factors(bytes(block), SITE, "m")


def test_directions_of_an_embedded_basis() -> None:
    """A side has at most as many as the larger one is long; both come back in order, rounded to half precision."""
    sides = {name: ModuleBasis(torch.randn(2, 3), torch.randn(3, 3)) for name in ("a", "b")}
    sites = dict.fromkeys(sides, SITE)
    sizes, payload = pack_basis(Basis(sides, BasisReference("embedded", 3)), sites)
    assert sizes == (3, 3)
    again = unpack_basis(sizes, payload, sites)
    for name, side in sides.items():
        assert torch.equal(again[name].U, side.U.half().float())
        assert torch.equal(again[name].V, side.V.half().float())
    with pytest.raises(FormatError, match="module 'a', 2 x 3, cannot have a basis of 4 directions"):
        unpack_basis((4, 3), payload, sites)


def test_planes_that_are_damaged() -> None:
    def plane(coding: int, body: bytes, size: int | None = None) -> memoryview:
        return memoryview(bytes([coding]) + (len(body) if size is None else size).to_bytes(8, "little") + body)

    def unpacked(data: memoryview, count: int = 4) -> list[int]:
        return [int(word) for word in planes.unpack(data, count, np.dtype("u1"), floating=False)[0]]

    weights = np.zeros(256, "<u2")
    weights[7] = 1
    assert unpacked(plane(0, b"abcd")) == list(b"abcd")
    assert unpacked(plane(0, b""), 0) == []
    good = planes._ans_pack(np.full(4, 7, np.uint8))
    assert unpacked(plane(2, good)) == [7] * 4
    for wrong, said in (
        (plane(3, b"abcd"), "unknown coding 3"),
        (plane(0, b"abcd", 5), "truncated"),
        (plane(0, b"abcd")[:8], "truncated"),
        (plane(0, b"abc"), "expected 4 bytes in a plane, found 3"),
        (plane(2, weights.tobytes()[:-4]), "truncated"),
        (plane(2, weights.tobytes() + b"\1\0\0"), "truncated"),
        (plane(2, bytes(512)), "damaged"),
        (plane(2, weights.tobytes() + bytes(4)), "damaged"),
        (plane(2, good + b"\1\0\0\0" * 3), "damaged"),
    ):
        with pytest.raises(FormatError, match=said):
            unpacked(wrong)


def test_a_zstandard_plane_states_its_size_and_ends() -> None:
    def plane(body: bytes) -> memoryview:
        return memoryview(b"\1" + len(body).to_bytes(8, "little") + body)

    body = zstandard.ZstdCompressor().compress(bytes(100))
    assert not planes.unpack(plane(body), 100, np.dtype("u1"), floating=False)[0].any()
    for wrong, count in ((body, 99), (body, 101), (body + b"\0", 100), (body[:-1], 100), (b"abcd", 100)):
        with pytest.raises(FormatError, match="packed tensors"):
            planes.unpack(plane(wrong), count, np.dtype("u1"), floating=False)


def test_floating_words_are_rotated_by_a_bit() -> None:
    """The sign goes to the end, so that the first plane is the exponent: of 1.0 and -2.0 in float16, 0x78 and 0x80."""
    words = np.array([0x3C00, 0xC000], dtype=np.uint16)
    data = planes.pack(words, floating=True)
    assert data[:11] == b"\0" + (2).to_bytes(8, "little") + b"\x78\x80"
    assert data[11:] == b"\0" + (2).to_bytes(8, "little") + b"\x00\x01"


def back(level: int, scale: int) -> int:
    """An even level, coded under a class of this scale and decoded."""
    numbers = np.array([[level, 0]], dtype=np.int32)
    block = Levels(Quantised(numbers, np.zeros((1, 2), np.uint8)), (Class(3, scale),))
    (found,) = entropy.decode(entropy.encode(1, 1, [block]), 1, lambda _: [TensorSpec("U", 1, 2)], "m")
    assert isinstance(found, Levels)
    assert found.quantised.levels[0, 1] == 0
    return int(found.quantised.levels[0, 0])


@pytest.mark.parametrize(
    ("scale", "last"),
    [
        (30, 31 + 2**21 - 1),  # an excess of 20 bits
        (41, 2 * (31 + 2**20 - 1)),  # one raw bit, an excess of 19
        (47, 4 * (31 + 2**19 - 1)),  # two raw bits, an excess of 18
    ],
)
def test_an_escape_and_its_raw_bits_have_twenty_bits(scale: int, last: int) -> None:
    for sign in (1, -1):
        assert back(sign * last, scale) == sign * last
        with pytest.raises(FormatError, match="a level is beyond the format's"):
            back(sign * (last + 4), scale)


@pytest.mark.parametrize("level", [30, 32, 34, 62, 64, 66, 94, 96, 98])
def test_levels_about_the_largest_symbol(level: int) -> None:
    assert (back(level, 30), back(-level, 30)) == (level, -level)


def test_a_byte_stands_for_at_most_16384_numbers() -> None:
    chunk = entropy.encode(1, 1, [Whole(np.zeros((1, 1), np.int32), 1)])
    most = 16384 * (len(chunk) + 64)
    (block,) = entropy.decode(chunk, 1, lambda _: [TensorSpec("i", 1, most, "index", bound=1)], "m")
    assert isinstance(block, Whole)
    assert block.numbers.shape == (1, most)
    with pytest.raises(FormatError, match="cannot hold tensors"):
        entropy.decode(chunk, 1, lambda _: [TensorSpec("i", 1, most + 1, "index", bound=1)], "m")


@pytest.mark.parametrize(("kind", "bound", "size"), [("index", 7, 7), ("simplex", 7, 4), ("simplex", 8, 5)])
def test_values_of_whole_numbers(kind: str, bound: int, size: int) -> None:
    assert size_of(TensorSpec("i", 1, 1, kind, bound=bound)) == size  # type: ignore[arg-type]


def test_values_of_levels() -> None:
    levels = np.array([[0, 1, -1, 3, -3]], dtype=np.int32)
    assert values(levels, np.zeros_like(levels, np.uint8)).tolist() == [[0, 2, -2, 6, -6]]
    assert values(levels, np.ones_like(levels, np.uint8)).tolist() == [[0, 1, -1, 5, -5]]


def svd(site: Site, most: int = 4) -> Coder[AnyMethod]:
    method = methods.load_fittable("svd")
    return Coder(method, method.config_type(), {"m": site}, most)


def test_a_byte_stands_for_at_most_65536_numbers_of_factors() -> None:
    """The rank times out + in: here of rank 1, 4 bytes and 64 more."""
    most = 65536 * (4 + 64)
    with pytest.raises(FormatError, match="bytes cannot hold tensors"):
        decode_module(svd(Site(most - 5, 5), 1), b"\1\2\3\4", 1.0, "m")
    with pytest.raises(FormatError, match=f"4 bytes cannot stand for factors of {most + 1} numbers"):
        decode_module(svd(Site(most - 4, 5), 1), b"\1\2\3\4", 1.0, "m")


def test_a_rank_is_at_most_that_of_the_file_and_of_the_shape() -> None:
    spec = [TensorSpec("U", 2, 9), TensorSpec("V", 2, 2)]
    tensors = {"U": torch.ones(2, 9), "V": torch.ones(2, 2)}
    (block,) = code_as_they_are([(2, 4, spec, tensors)], 0.5)
    assert decode_ranked(svd(Site(9, 2)), block.chunk, 0.5, "m")[0] == 2
    assert decode_ranked(svd(Site(9, 2)), b"", 0.5, "m") == (0, {})
    (block,) = code_as_they_are([(3, 4, spec, tensors)], 0.5)
    with pytest.raises(FormatError, match="module 'm', 9 x 2: rank 3 is out of range"):
        decode_ranked(svd(Site(9, 2)), block.chunk, 0.5, "m")


def test_what_all_share_is_there_where_the_method_says_so() -> None:
    assert decode_shared(svd(SITE), b"", 1.0) == {}
    with pytest.raises(FormatError, match="shared tensors are missing, or the method has none"):
        decode_shared(svd(SITE), b"\1", 1.0)


def test_weights_of_a_row_add_up_to_one_at_most() -> None:
    spec = TensorSpec("w", 2, 3, "simplex", bound=8)
    whole = torch.tensor([[4, 4, 0], [0, 1, 2]])
    (block,) = code_as_they_are([(1, 1, [spec], {"w": whole})], 1.0)
    assert block.tensors["w"].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.125, 0.25]]
    assert block.numbers == 6
    with pytest.raises(FormatError, match="weights of w add up to more than 1"):
        code_as_they_are([(1, 1, [spec], {"w": whole + torch.tensor([[0, 0, 1], [0, 0, 0]])})], 1.0)


def test_a_step_that_needs_levels_beyond_the_formats_is_refused() -> None:
    step = 2.0**-20
    with pytest.raises(CheckFailedError, match="the quantiser step is too small"):
        rounded([torch.tensor([[1.0]])], step)
    with pytest.raises(CheckFailedError, match="the quantiser step is too small"):
        rounded([torch.tensor([[-2.0, 0.0]])], step)
    assert rounded([torch.tensor([[0.999]])], step)[0].tolist() == [[pytest.approx(0.999, abs=2 * step)]]
