"""The bounds of the format's text, each at its last allowed value and at the first one beyond (formats/adz-1.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adaptzip.adz.container import deflate, header, names, streams, training
from adaptzip.adz.container.deflate import inflate
from adaptzip.adz.container.header import parse_metadata
from adaptzip.adz.container.names import expand, factor, parameter_of
from adaptzip.adz.container.streams import frame, parse_frame, read_lengths, write_lengths
from adaptzip.adz.container.tables import Tables, parse_config, read_tables, write_tables
from adaptzip.adz.container.training import read_report
from adaptzip.core.compressed import ExtraEntry
from adaptzip.errors import FormatError, RefusedError
from tests.cases.metadata import SMALL

EMPTY = Tables(b"", (), b"", (), (), ())


def test_the_bounds_are_those_of_the_text() -> None:
    assert header.MAX_MODULES == 1_000_000
    assert header.MAX_WIDTH == 2_147_483_647
    assert header.MAX_RANK == 1_048_576
    assert streams.MAX_HEADER == 16_777_216
    assert deflate.LIMIT == names.MOST_TEXT == 67_108_864


def parses(**changes: Any) -> bool:
    try:
        parse_metadata(json.dumps(SMALL | changes))
    except FormatError:
        return False
    return True


@pytest.mark.parametrize(
    ("key", "last"),
    [
        ("max_rank", 2**20),
        ("parameters", 2**63 - 1),
        ("seed", 2**63 - 1),
    ],
)
def test_integers(key: str, last: int) -> None:
    assert parses(**{key: 0})
    assert parses(**{key: last})
    assert not parses(**{key: last + 1})
    assert not parses(**{key: -1})
    assert not parses(**{key: 1.0})


@pytest.mark.parametrize("key", ["error", "step"])
def test_numbers(key: str) -> None:
    assert parses(**{key: 0})
    assert parses(**{key: 2.0**62})
    assert not parses(**{key: 2.0**63})
    assert not parses(**{key: -1e-9})


def test_the_source() -> None:
    assert parses(source=[0, None])
    assert parses(source=[2**63 - 1, "h"])
    for wrong in ([2**63, None], [-1, None], [1], [1, None, None], [1, 2], [True, None], [1.0, None]):
        assert not parses(source=wrong)


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
        assert parses(basis=["embedded", size, "", ""]) == allowed
        assert parses(basis=["file", size, "A" * 22, "m"]) == allowed
    for digest in ("", "A" * 21, "A" * 23, "A" * 21 + "+"):
        assert not parses(basis=["base", 4, digest, ""])
    assert not parses(basis=["disk", 4, "A" * 22, ""])


def test_methods_and_hashes() -> None:
    assert parses(method="x-1/999999999")
    for wrong in ("x/1000000000", "x/0", "x/01", "-x/1", "X/1", "x", "x/1 "):
        assert not parses(method=wrong)
    for wrong in ("A" * 21, "A" * 23, "A" * 21 + "="):
        assert not parses(hash=wrong)


def test_another_version_and_what_a_file_requires_are_refused() -> None:
    for version in (0, 2):
        with pytest.raises(RefusedError, match=f"format version {version} is not 1"):
            parse_metadata(json.dumps(SMALL | {"format": version}))
    for requires, said in ((["y", "x"], "x, y"), ("all", "all")):
        with pytest.raises(RefusedError, match=f"requires {said}, which"):
            parse_metadata(json.dumps(SMALL | {"requires": requires}))
    assert parses(requires=[])
    assert not parses(format=True)
    assert not parses(format="1")


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


@pytest.mark.parametrize("number", [0, 1, 127, 128, 255, 16383, 16384, 2**35 - 1, 2**35, 2**42 - 1])
def test_numbers_of_the_index_take_a_byte_for_seven_bits(number: int) -> None:
    data = write_lengths([number])
    assert len(data) == max(1, -(-number.bit_length() // 7))
    assert sum((byte & 127) << 7 * place for place, byte in enumerate(data)) == number
    assert [byte >> 7 for byte in data] == [1] * (len(data) - 1) + [0]
    assert read_lengths(data) == [number]


def test_numbers_of_the_index_that_are_too_large_or_too_many() -> None:
    with pytest.raises(FormatError, match="too large"):
        read_lengths(write_lengths([2**42]))
    assert len(read_lengths(bytes(1_000_000))) == 1_000_000
    with pytest.raises(FormatError, match="too many entries"):
        read_lengths(bytes(1_000_001))
    for longer in (b"\x81\0", b"\x80\x80\0", b"\5\x81\0"):
        with pytest.raises(FormatError):
            read_lengths(longer)
    for cut in (b"\x81", b"\5\x81\x82"):
        with pytest.raises(FormatError, match="ends within"):
            read_lengths(cut)


def entry(*shape: int, role: str = "extra", name: str = "x") -> ExtraEntry:
    return ExtraEntry(role, name, "F32", shape, "F32")


def reads(*entries: ExtraEntry) -> bool:
    try:
        found = read_tables(memoryview(write_tables(Tables(b"", entries, b"", (), (), ()))))
    except FormatError:
        return False
    assert found.extras == entries
    return True


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


def test_texts_of_the_tables_have_a_longest_length() -> None:
    most = 2**24
    longest = b" " * (most - 2) + b"{}"
    assert read_tables(memoryview(write_tables(Tables(longest, (), b"", (), (), ())))).config == longest
    with pytest.raises(RefusedError, match="have 16,777,217 bytes, more than 16,777,216"):
        write_tables(Tables(longest + b" ", (), b"", (), (), ()))
    head = write_lengths([most + 1, 0, 0, 0, 0])
    with pytest.raises(FormatError, match="more than 16777216 bytes"):
        read_tables(memoryview(deflate.deflate(bytes([len(head)]) + head + longest + b" ")))
    header_alone = Tables(b"", (), b" " * (most + 1), (), (), ())
    assert len(read_tables(memoryview(write_tables(header_alone))).source_header) == most + 1


@pytest.mark.parametrize("plain", [b"", b"\5", b"\4\0\0\0\0", b"\6" + bytes(6), b"\5\1\0\0\0\0", b"\5\0\0\0\0\1"])
def test_tables_without_five_whole_sections(plain: bytes) -> None:
    with pytest.raises(FormatError, match="the tables are truncated"):
        read_tables(memoryview(deflate.deflate(plain)))


def test_the_least_tables() -> None:
    assert read_tables(memoryview(deflate.deflate(b"\5" + bytes(5)))) == EMPTY
    assert read_tables(memoryview(write_tables(EMPTY))) == EMPTY
    assert inflate(write_tables(EMPTY)) == b"\5" + bytes(5)


def test_configurations() -> None:
    assert parse_config(b"") == {}
    assert parse_config(b'{"a": NaN, "r": 1, "r": 2}')["r"] == 2
    for wrong in (b"[]", b"null", b"{", b"\xff"):
        with pytest.raises(FormatError, match="source's configuration is not"):
            parse_config(wrong)


def test_what_is_deflated_has_a_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    data = deflate.deflate(b"x" * 100)
    monkeypatch.setattr(deflate, "LIMIT", 100)
    assert len(inflate(data)) == 100
    monkeypatch.setattr(deflate, "LIMIT", 99)
    with pytest.raises(FormatError, match="longer than 99 bytes"):
        inflate(data)
    with pytest.raises(FormatError):
        inflate(data[:-1])
    with pytest.raises(FormatError):
        inflate(data + b"x")


SIZES = {"tables": 3, "modules": 5}


def framed(metadata: str = "{}", sizes: dict[str, int] = SIZES) -> bytes:
    return frame(metadata, sizes)


def test_a_frame_tells_where_streams_lie() -> None:
    for length in range(9):
        assert len(framed("x" * length)) % 8 == 0
        assert framed("x" * length)[-8:].strip()
    start = framed()
    assert int.from_bytes(start[:8], "little") == len(start) - 8
    text, spans = parse_frame(memoryview(start), len(start) + 8)
    assert text == "{}"
    first = len(start)
    assert spans == {"tables": (first, first + 3), "modules": (first + 3, first + 8)}
    for size in (len(start) + 7, len(start) + 9):
        with pytest.raises(FormatError, match=f"the file has {size} bytes where its header announces {len(start) + 8}"):
            parse_frame(memoryview(start), size)


def test_a_header_has_a_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    start = framed()
    length = len(start) - 8
    for most, fits in ((length, True), (length - 1, False)):
        monkeypatch.setattr(streams, "MAX_HEADER", most)
        if fits:
            assert framed() == start
            parse_frame(memoryview(start), len(start) + 8)
            continue
        with pytest.raises(RefusedError, match=f"take {length} bytes, more than {most}"):
            framed()
        with pytest.raises(FormatError, match="not a .adz file"):
            parse_frame(memoryview(start), len(start) + 8)


def test_a_header_ends_within_the_file() -> None:
    start = frame("{}", {})
    assert parse_frame(memoryview(start), len(start))[1] == {}
    with pytest.raises(FormatError, match="no safetensors header that fits the file"):
        parse_frame(memoryview(start), len(start) - 1)


def test_a_header_begins_with_a_brace() -> None:
    start = bytearray(framed())
    for other in b"[} ":
        start[8] = other
        with pytest.raises(FormatError, match="no safetensors header that fits the file"):
            parse_frame(memoryview(bytes(start)), len(start) + 8)


def with_streams(**entries: Any) -> bytes:
    text = json.dumps({"__metadata__": {"adaptzip": "{}"}} | entries).encode()
    return len(text).to_bytes(8, "little") + text


def span(first: Any, end: Any, size: Any = None, **changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - first if size is None else size], "data_offsets": [first, end]} | changes


@pytest.mark.parametrize(
    "entries",
    [
        {"a": span(1, 3)},
        {"a": span(0, 3), "b": span(2, 4)},
        {"a": span(0, 3), "b": span(4, 5)},
        {"a": span(0, 3, 2)},
        {"a": span(0, 3, True)},
        {"a": span(0, 3.0, 3)},
        {"a": span(-1, 2)},
        {"a": span(3, 0, -3)},
        {"a": span(0, 3, dtype="I8")},
        {"a": span(0, 3, extra=1)},
        {"a": span(0, 3, shape=[3, 1])},
    ],
)
def test_streams_that_do_not_lie_side_by_side(entries: dict[str, Any]) -> None:
    start = with_streams(**entries)
    with pytest.raises(FormatError, match="stream '[ab]'"):
        parse_frame(memoryview(start), len(start) + 10)


def test_streams_may_be_listed_in_any_order_and_be_empty() -> None:
    start = with_streams(b=span(2, 5), a=span(0, 2), z=span(0, 0))
    _, spans = parse_frame(memoryview(start), len(start) + 5)
    first = len(start)
    assert spans == {"z": (first, first), "a": (first, first + 2), "b": (first + 2, first + 5)}


ROW = [0.5, 1, None]
REPORT = [90, 10, 7, 8, "loss", ROW, ROW, ROW, ROW]


def reported(place: int, item: Any) -> bool:
    try:
        read_report([*REPORT[:place], item, *REPORT[place + 1 :]])
    except FormatError:
        return False
    return True


def test_training_reports() -> None:
    found = read_report(REPORT)
    assert found is not None
    assert (found.texts, found.held_out, found.step, found.steps, found.metric) == (90, 10, 7, 8, "loss")
    assert training.write_report(found) == [*REPORT[:5], *[tuple(ROW)] * 4]
    assert read_report(None) is None
    assert training.write_report(None) is None
    wrong_reports: list[Any] = [REPORT[:-1], [*REPORT, ROW], {}, 3]
    for wrong in wrong_reports:
        with pytest.raises(FormatError, match="'distilled' is malformed"):
            read_report(wrong)


def test_numbers_of_training_reports() -> None:
    for place in range(4):
        assert reported(place, 0)
        assert reported(place, 2**63 - 1)
        assert not any(reported(place, wrong) for wrong in (-1, 2**63, True, 1.0, None))
    for place in range(5, 9):
        assert reported(place, [0, 0.0, 2.0**62])
        wrong_rows: list[Any] = [[0, 0], [0, 0, 0, 0], [0, 0, -1e-9], [0, 0, 2.0**63], [0, 0, True], [0, 0, "1"], 0]
        assert not any(reported(place, wrong) for wrong in wrong_rows)
    assert all(reported(4, metric) for metric in (None, "accuracy", "F1", "squared error"))
    assert not reported(4, "BLEU")


def test_rows_of_training_reports_are_in_order() -> None:
    found = read_report([1, 2, 3, 4, None, [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]])
    assert found is not None
    assert [row[0] for row in (found.none, found.teacher, found.fitted, found.distilled)] == [1, 2, 3, 4]
