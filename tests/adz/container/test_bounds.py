"""The bounds of the format's text, each at its last allowed value and at the first one beyond (formats/adz-1.md)."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from adaptzip.adz.container import adapter_config, deflate, frame, head, modules, names, payload
from adaptzip.adz.container.adapter_config import parse_config
from adaptzip.adz.container.deflate import inflate
from adaptzip.adz.container.extras import read_extras, write_extras
from adaptzip.adz.container.frame import frame_end
from adaptzip.adz.container.frames import read_offsets, write_offsets
from adaptzip.adz.container.index import read_index, write_index
from adaptzip.adz.container.metadata import parse_metadata
from adaptzip.adz.container.names import expand, factor, parameter_of
from adaptzip.adz.container.numbers import Cursor, decimal, leb128
from adaptzip.adz.container.payload import pieces_of
from adaptzip.adz.container.training import read_report, write_report
from adaptzip.core.compressed import ExtraEntry, Site
from adaptzip.core.training_report import TrainingReport
from adaptzip.errors import FormatError, RefusedError
from tests.cases.metadata import SMALL

HASH = "A" * 22


def test_the_bounds_are_those_of_the_text() -> None:
    assert modules.MAX_MODULES == 1_000_000
    assert modules.MAX_WIDTH == 2_147_483_647
    assert head.MAX_RANK == 1_048_576
    assert head.MAX_HEAD == 16_777_216
    assert frame.MAX_FRAME == 65_536
    assert payload.PIECE == 131_072
    assert deflate.LIMIT == names.MOST_TEXT == 67_108_864
    assert len(json.loads(adapter_config.DEFAULTS)["newer"]) == 12


def parses(**changes: Any) -> bool:
    value = SMALL | changes
    try:
        parse_metadata(json.dumps(value), HASH if changes.get("basis") else "")
    except FormatError:
        return False
    return True


@pytest.mark.parametrize("place", [1, 2])
def test_shapes(place: int) -> None:
    def shaped(size: Any) -> bool:
        entry: list[Any] = ["a", 8, 6]
        entry[place] = size
        return parses(modules=[entry])

    assert shaped(1)
    assert shaped(2**31 - 1)
    assert not shaped(2**31)
    assert not shaped(0)
    assert not shaped(True)


def test_kernels() -> None:
    assert parses(modules=[["a", 8, 2**8, "conv", [2] * 8]])
    assert not parses(modules=[["a", 8, 2**9, "conv", [2] * 9]])
    assert parses(modules=[["a", 8, 6, "conv", [2, 3]]])
    assert parses(modules=[["a", 8, 12, "conv", [2, 3]]])
    assert not parses(modules=[["a", 8, 9, "conv", [2, 3]]])
    assert not parses(modules=[["a", 8, 6, "conv", [0]]])
    assert not parses(modules=[["a", 8, 6, "linear", [2, 3]]])


def test_a_basis() -> None:
    for size, allowed in ((0, False), (1, True), (2**20, True), (2**20 + 1, False), (True, False), (1.0, False)):
        assert parses(basis=["embedded", size]) == allowed
        assert parses(basis=["file", size, "m"]) == allowed
    for wrong in (["disk", 4], ["base"], ["base", 4, 1], ["base", 4, "", None], "base", ["start", 4], ["start", 4, ""]):
        assert not parses(basis=wrong)


def test_a_basis_that_is_known_by_its_hash_has_one() -> None:
    for source, needed in (("base", True), ("file", True), ("reference", True), ("embedded", False)):
        text = json.dumps(SMALL | {"basis": [source, 4]})
        assert parse_metadata(text, HASH).basis is not None
        if needed:
            with pytest.raises(FormatError, match="lacks its hash"):
                parse_metadata(text)
        else:
            parse_metadata(text)
    with pytest.raises(FormatError, match="'basis' is malformed"):
        parse_metadata(json.dumps(SMALL), HASH)


def test_a_start() -> None:
    def starts(*start: Any) -> bool:
        return parses(basis=["start", 4, "", list(start)])

    assert starts("uniform", 0, 0)
    assert starts("", 2**64 - 1, 100)
    for wrong in (("u", 2**64, 0), ("u", -1, 0), ("u", 1, 101), ("u", 1, -1), ("u", True, 1), ("u", 1.0, 1), (1, 1, 1)):
        assert not starts(*wrong)
    assert not starts("u", 1)
    assert not parses(basis=["base", 4, "", ["uniform", 1, 1]])


def test_offsets_of_a_start() -> None:
    for offsets in ((), (0,), (2**42 - 1, 0, 2**42 - 1), (5, 5, 7)):
        data = write_offsets(offsets)
        assert read_offsets(Cursor(data, "x"), len(offsets)) == offsets
    for far in ((2**42,), (-1,), (2**42 - 1, 2**42)):
        with pytest.raises(FormatError, match="the offset .* is not within"):
            read_offsets(Cursor(write_offsets(far), "x"), len(far))


def test_offsets_that_are_regular_are_short() -> None:
    """12 modules of two kinds: what repeats is deflated to nothing."""
    offsets = [300_000 + 5_000_000 * layer + 590_000 * part for layer in range(6) for part in range(2)]
    assert len(deflate.deflate(write_offsets(offsets))) <= 16


def test_methods() -> None:
    assert parses(method="x-1/999999999")
    for wrong in ("x/1000000000", "x/0", "x/01", "-x/1", "X/1", "x", "x/1 "):
        assert not parses(method=wrong)


def test_what_a_file_requires_is_refused() -> None:
    for requires, said in ((["y", "x"], "x, y"), ("all", "all")):
        with pytest.raises(RefusedError, match=f"requires {said}, which"):
            parse_metadata(json.dumps(SMALL | {"requires": requires}))
    assert parses(requires=[])


def test_unknown_keys_are_ignored() -> None:
    assert parses(tomorrow={"is": "another"}, day=[1])


def test_module_names_come_once_and_experts_of_no_module() -> None:
    assert not parses(modules=[["a", 8, 6], ["a", 9, 6]])
    assert not parses(modules=[["{a,a}", 8, 6]])
    assert parses(modules=[["e[0]", 8, 6, "expert"], ["e[1]", 8, 6, "expert_transposed"]])
    assert not parses(modules=[["e", 8, 6], ["e[0]", 8, 6, "expert"]])
    assert not parses(modules=[["e", 8, 6, "expert"]])
    assert parses(modules=[["e", 8, 6], ["e[0]", 8, 6]])


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("a.b[0]", "a.b"),
        ("a[999999]", "a"),
        ("a[0][12]", "a[0]"),
        ("a[1000000]", None),
        ("a[01]", None),
        ("a[]", None),
        ("[3]", None),
        ("a[3]b", None),
        ("a", None),
    ],
)
def test_experts_names(name: str, parameter: str | None) -> None:
    assert parameter_of(name) == parameter


def test_as_many_names_as_there_is_room_for() -> None:
    assert len(expand(["{0-9}.{0-9}"], 100)) == 100
    assert len(expand(["{0-9}", "x{0-9}"], 20)) == 20
    for patterns, limit in ((["{0-9}.{0-9}"], 99), (["{0-9}", "x{0-9}"], 19), (["a", "b"], 1)):
        with pytest.raises(FormatError, match=f"more than {limit} names"):
            expand(patterns, limit)


def test_as_many_characters_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names times the longest alternative: 3 x (1 + 2) and 2 x 3."""
    monkeypatch.setattr(names, "MOST_TEXT", 15)
    assert expand(["a{b,c,dd}", "x{yy,z}"], 9) == ["ab", "ac", "add", "xyy", "xz"]
    monkeypatch.setattr(names, "MOST_TEXT", 14)
    with pytest.raises(FormatError, match="more than 14 characters"):
        expand(["a{b,c,dd}", "x{yy,z}"], 9)


def test_the_longest_number_of_a_range_is_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MOST_TEXT", 3 * 2)
    assert expand(["{8-10}"], 9) == ["8", "9", "10"]
    monkeypatch.setattr(names, "MOST_TEXT", 5)
    with pytest.raises(FormatError):
        expand(["{8-10}"], 9)


def test_ranges() -> None:
    assert expand(["{3-5}"], 9) == ["3", "4", "5"]
    assert expand(["{3-4}"], 9) == ["3", "4"]
    for empty in ("{4-4}", "{5-4}"):
        with pytest.raises(FormatError, match="empty range"):
            expand([empty], 9)
    assert expand(["{01-02}"], 9) == ["01-02"]


def test_numbers_in_a_row_are_written_as_ranges() -> None:
    assert factor(["l0", "l1", "l2", "l5", "l7", "l8"]) == ["l{0-2,5,7-8}"]
    assert factor(["l1", "l2"]) == ["l{1-2}"]
    assert factor(["l1", "l3"]) == ["l{1,3}"]
    assert factor(["l01", "l1", "l2"]) == ["l{1-2,01}"]
    assert factor(["l999", "l1000", "l1001"]) == ["l{999-1001}"]
    assert factor([]) == []
    assert factor(["a.x", "a.y", "b.x", "b.y", "c"]) == ["c", "{a,b}.{x,y}"]


@pytest.mark.parametrize("number", [0, 1, 127, 128, 255, 16383, 16384, 2**35 - 1, 2**35, 2**42 - 1, 2**63 - 1])
def test_numbers_take_a_byte_for_seven_bits(number: int) -> None:
    data = leb128([number])
    assert len(data) == max(1, -(-number.bit_length() // 7))
    assert sum((byte & 127) << 7 * place for place, byte in enumerate(data)) == number
    assert [byte >> 7 for byte in data] == [1] * (len(data) - 1) + [0]
    assert Cursor(data, "x").whole(number) == number
    if number:
        with pytest.raises(FormatError, match=f"x holds the number {number}, expected at most {number - 1}"):
            Cursor(data, "x").whole(number - 1)


def test_numbers_that_are_too_large_too_long_or_cut() -> None:
    with pytest.raises(FormatError, match="too large"):
        Cursor(b"\x80" * 9 + b"\1", "x").whole()
    for longer in (b"\x81\0", b"\x80\x80\0"):
        with pytest.raises(FormatError, match="longer than it need be"):
            Cursor(longer, "x").whole()
    for cut in (b"", b"\x81", b"\x81\x82"):
        with pytest.raises(FormatError, match="x is truncated"):
            Cursor(cut, "x").whole()


@pytest.mark.parametrize("number", [0.0, 1.0, 0.1, 0.299786, 1e-15, 1e15, 123456789.5, 2.0**62, 1 / 3, 5e-324, 1e-20])
def test_decimals_come_back(number: float) -> None:
    assert Cursor(decimal(number), "x").decimal() == number
    assert Cursor(decimal(number, spare=1), "x").optional() == number


def test_decimals_of_few_digits_are_short() -> None:
    for number, length in ((0.0, 1), (0.5, 2), (0.9999, 3), (9.22e18, 3), (0.299786, 4), (1 / 3, 9)):
        assert len(decimal(number)) == length
    assert Cursor(b"\0", "x").optional() is None


@pytest.mark.parametrize("number", [2.0**63, -1.0, float("nan"), float("inf")])
def test_numbers_beyond_the_limits(number: float) -> None:
    for data in (b"\x1f" + struct.pack("<d", number),):
        with pytest.raises(FormatError, match="expected one from 0 to 2"):
            Cursor(data, "x").decimal()
    with pytest.raises(FormatError, match="expected one from 0 to 2"):
        Cursor(struct.pack("<f", number), "x").single()
    assert Cursor(struct.pack("<f", 2.0**62), "x").single() == 2.0**62


def test_malformed_decimals() -> None:
    for code in (32 * 2**42, 32 + 31, 31 + 32 * 7):
        with pytest.raises(FormatError, match="malformed decimal"):
            Cursor(leb128([code]) + bytes(8), "x").decimal()
    assert Cursor(leb128([32 * (2**42 - 1) + 15]), "x").decimal() == 2**42 - 1


def sites(*shapes: tuple[int, int]) -> dict[str, Site]:
    return {f"m{i:05}": Site(*shape) for i, shape in enumerate(shapes)}


@pytest.mark.parametrize(
    "lengths", [[], [0], [1], [0, 0, 0], [7, 7, 7], [2**42 - 1, 1, 0, 5], [1, 2**42 - 1], list(range(50)), [900, 0] * 9]
)
def test_lengths_come_back(lengths: list[int]) -> None:
    modules_ = sites(*[(8, 6 + i % 2) for i in range(len(lengths))])
    data = write_index(modules_, lengths)
    assert read_index(data, modules_) == (tuple(lengths), 0)
    assert len(data) <= 12 * len(lengths) + 1
    for wrong in (data[:-1], data + b"\0", data + bytes(99)):
        if wrong != data:
            with pytest.raises(FormatError, match="index"):
                read_index(wrong, modules_)


def test_lengths_of_alike_modules_take_few_bits() -> None:
    modules_ = sites(*[(8, 6), (9, 6)] * 30)
    assert len(write_index(modules_, [410, 250] * 30)) <= 1 + 60 // 4
    assert len(write_index(modules_, [0] * 60)) == 1 + 8


def test_a_length_beyond_the_limit() -> None:
    with pytest.raises(FormatError, match="the index"):
        read_index(write_index(sites((1, 1)), [2**42]), sites((1, 1)))


def entry(*shape: int, role: str = "extra", name: str = "x") -> ExtraEntry:
    return ExtraEntry(role, name, "F32", shape, "F32")


def reads(*entries: ExtraEntry) -> bool:
    try:
        found = read_extras(json.loads(json.dumps(write_extras(entries))))
    except FormatError:
        return False
    assert found == entries
    return True


def test_defaults_of_extras_are_left_out_at_the_end() -> None:
    full = ExtraEntry("bias", "x", "F16", (2,), "Q8")
    assert write_extras([entry(2), full]) == [["x", [2]], ["x", [2], "F16", "Q8", "bias"]]
    assert write_extras([ExtraEntry("extra", "x", "F32", (), "BF16")]) == [["x", [], "F32", "BF16"]]
    assert write_extras([ExtraEntry("magnitude", "x", "F32", (1,), "F32")]) == [["x", [1], "F32", "F32", "magnitude"]]


def test_shapes_of_extras() -> None:
    assert reads(entry(*[1] * 16))
    assert not reads(entry(*[1] * 17))
    assert reads(entry(2**40 - 1))
    assert reads(entry(0, 2**40 - 1))
    assert not reads(entry(2**40))
    assert not reads(entry(2**20, 2**20))
    assert not reads(entry(0, 2**20, 2**20))
    assert reads(entry())
    assert not reads(entry(-1))


def test_extras_come_once_and_are_no_factors() -> None:
    assert reads(entry(1), entry(1, name="y"))
    assert reads(entry(1), entry(1, role="bias"))
    assert not reads(entry(1), entry(2))
    assert reads(*(entry(1, name=str(number)) for number in range(300)))
    assert reads(entry(1, name="a.blora_b"))
    assert reads(entry(1, role="bias", name="lora_m"))
    for factor_of in ("lora_A.x", "a.lora_B.weight", "a.vblora_logits", "xlora_latent_mapping"):
        assert not reads(entry(1, name=factor_of))


def test_configurations() -> None:
    assert parse_config(b"") == {}
    assert parse_config(b'{"a": NaN, "r": 1, "r": 2}')["r"] == 2
    for wrong in (b"[]", b"null", b"{", b"\xff"):
        with pytest.raises(FormatError, match="source's configuration is not"):
            parse_config(wrong)


def test_what_is_deflated_has_a_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    data = deflate.deflate(b"x" * 100)
    monkeypatch.setattr(deflate, "LIMIT", 100)
    assert inflate(data) == (b"x" * 100, b"")
    assert inflate(data + b"yz") == (b"x" * 100, b"yz")
    monkeypatch.setattr(deflate, "LIMIT", 99)
    with pytest.raises(FormatError, match="longer than 99 bytes"):
        inflate(data)
    with pytest.raises(FormatError):
        inflate(data[:-1])


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 0), (1, 0), (2**17, 0), (2**17 + 33, 2), (2**18 + 32, 2), (2**18 + 49, 3), (5 * 2**17 + 80, 5)],
)
def test_pieces_are_counted_from_the_size_with_their_hashes(size: int, count: int) -> None:
    assert pieces_of(size) == count


@pytest.mark.parametrize("size", [2**17 + 1, 2**17 + 16, 2**17 + 32, 2**18 + 33, 2**18 + 48])
def test_sizes_that_no_payload_has_with_its_hashes(size: int) -> None:
    with pytest.raises(FormatError, match="are no payload"):
        pieces_of(size)


def test_a_frame_tells_where_its_tensor_lies() -> None:
    for size in (0, 9, 10, 12345, 2**40):
        start = frame.frame(size)
        assert len(start) % 8 == 0
        assert int.from_bytes(start[:8], "little") == len(start) - 8
        assert frame_end(start, len(start) + size) == len(start)
        for wrong in (len(start) + size + 1, len(start) + size - 1):
            with pytest.raises(FormatError, match="the file|fits the file"):
                frame_end(start, wrong)


def test_a_header_has_a_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    start = frame.frame(3)
    monkeypatch.setattr(frame, "MAX_FRAME", len(start) - 8)
    assert frame_end(start, len(start) + 3)
    monkeypatch.setattr(frame, "MAX_FRAME", len(start) - 9)
    with pytest.raises(FormatError, match="not a .adz file"):
        frame_end(start, len(start) + 3)


def test_a_header_begins_with_a_brace() -> None:
    start = bytearray(frame.frame(3))
    for other in b"[} ":
        start[8] = other
        with pytest.raises(FormatError, match="no safetensors header that fits the file"):
            frame_end(bytes(start), len(start) + 3)


def test_other_keys_of_the_header() -> None:
    entry = '"adz":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}'

    def ends(text: str) -> bool:
        start = len(text).to_bytes(8, "little") + text.encode()
        try:
            return frame_end(start, len(start) + 3) == len(start)
        except FormatError:
            return False

    assert ends("{" + entry + "}")
    assert ends('{"__metadata__":{"format":"pt"},' + entry + "}   ")
    assert not ends('{"x":1,' + entry + "}")
    assert not ends("{" + entry.replace("adz", "abc") + "}")


REPORT = TrainingReport(90, 10, 7, 8, "loss", (0.5, 1.0, None), (0.0, 1.0, 2.0), (None, None, None), (0.25, 0.5, 3e-6))


def test_training_reports() -> None:
    data = write_report(REPORT)
    cursor = Cursor(data + b"rest", "x")
    assert read_report(cursor) == REPORT
    assert cursor.rest == b"rest"
    for cut in range(len(data)):
        with pytest.raises(FormatError, match="truncated"):
            read_report(Cursor(data[:cut], "x"))


def test_numbers_of_training_reports() -> None:
    largest = leb128([2**63 - 1] * 4)
    assert read_report(Cursor(largest + bytes(13), "x")).steps == 2**63 - 1
    with pytest.raises(FormatError, match="the report's metric is number 5"):
        read_report(Cursor(bytes([1, 1, 1, 1, 5]) + bytes(12), "x"))
    metrics = [read_report(Cursor(bytes([1, 1, 1, 1, code]) + bytes(12), "x")).metric for code in range(5)]
    assert metrics == [None, "accuracy", "loss", "F1", "squared error"]
