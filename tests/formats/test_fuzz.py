"""Damaged files, with and without a hash that fits: only AdaptzipError comes out, and both decoders agree."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adaptzip.errors import AdaptzipError, FormatError, RefusedError
from formats import decoder
from formats.make_golden import read_back
from formats.taken_apart import File, hashed
from tests.formats.decoded import GOLDEN, agree, decoded, plain

NEW = (
    "gains",
    "vblora-k1",
    "vblora-k2",
    "vblora-k3-levels",
    "lora-sb-embedded",
    "loretta-delta",
    "loretta-rep",
    "loretta-adp",
)
NAMES = ("coarse", "escapes", "layouts", "extras-int8", "lossless", "odd-configuration", "distilled", *NEW)
SETTINGS = settings(max_examples=int(os.environ.get("ADAPTZIP_FUZZ_EXAMPLES", "150")), deadline=None)
"""Set ADAPTZIP_FUZZ_EXAMPLES to look for longer."""
names = st.sampled_from(NAMES)
positions = st.floats(0, 1, exclude_max=True)
edits = st.lists(st.tuples(positions, st.integers(1, 255)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x.adz"


@cache
def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.adz").read_bytes()


@cache
def parts(name: str) -> File:
    return File.open(name)


def changed(data: bytes, edits: list[tuple[float, int]]) -> bytes:
    """`data` with some bytes changed, each at a share of its length, by exclusive or."""
    result = bytearray(data)
    for place, mask in edits:
        if result:
            result[int(place * len(result))] ^= mask
    return bytes(result)


def read(path: Path, data: bytes) -> dict[str, Any] | None:
    """What adaptzip makes of a file; None if it refuses it."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        return plain(read_back(path))
    except (FormatError, RefusedError) as error:
        # What the source's configuration may say is its dialect's to decide, not the format's.
        assume("the configuration in it" not in str(error))
        return None


def read_independently(data: bytes) -> dict[str, Any] | None:
    try:
        return decoded(data)
    except decoder.Broken:
        return None


@SETTINGS
@given(names, edits)
def test_any_changed_byte_is_noticed(path: Path, name: str, edits: list[tuple[float, int]]) -> None:
    data = changed(golden(name), edits)
    if data != golden(name):
        assert read(path, data) is None


@SETTINGS
@given(names, positions, st.binary(max_size=9))
def test_any_cut_and_any_tail_is_noticed(path: Path, name: str, place: float, tail: bytes) -> None:
    whole = golden(name)
    data = whole[: int(place * len(whole))] + tail
    if data != whole:  # A tail may be what was cut.
        assert read(path, data) is None


@SETTINGS
@given(names, st.sampled_from(["shared", "basis", "packed"]), edits)
def test_changed_parts_of_the_payload_under_a_right_hash(
    path: Path, name: str, part: str, edits: list[tuple[float, int]]
) -> None:
    file = parts(name)
    changes: dict[str, Any] = {part: changed(getattr(file, part), edits)}
    data = dataclasses.replace(file, **changes).build()
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(names, edits)
def test_changed_blocks_under_a_right_hash(path: Path, name: str, edits: list[tuple[float, int]]) -> None:
    file = parts(name)
    first, length = len(file.shared), sum(map(len, file.blocks))
    payload = file.payload()
    blocks = changed(payload[first : first + length], edits)
    data = file.build(payload=payload[:first] + blocks + payload[first + length :])
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(names, edits)
def test_changed_numbers_of_the_head(path: Path, name: str, edits: list[tuple[float, int]]) -> None:
    file = parts(name)
    head = file.head()
    numbers = len(file.head(deflated=b"", index=b""))
    data = file.build(changed(head[:numbers], edits) + head[numbers:])
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(names, edits, st.binary(max_size=3))
def test_a_changed_index(path: Path, name: str, edits: list[tuple[float, int]], tail: bytes) -> None:
    file = parts(name)
    data = file.build(file.head(index=changed(file.index(), edits) + tail))
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(names, st.binary(max_size=30), positions)
def test_changed_tables_before_they_are_deflated(path: Path, name: str, content: bytes, place: float) -> None:
    file = parts(name)
    texts = file.texts()
    line = texts.index(b"\n") + 1
    cut = line + int(place * (len(texts) - line + 1))
    data = file.build(file.head(texts=texts[:cut] + content))
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(names, positions, st.integers(-8, 8))
def test_blocks_that_are_too_short_or_too_long(path: Path, name: str, place: float, more: int) -> None:
    file = parts(name)

    def longer(block: bytes) -> bytes:
        return block[:more] if more < 0 else block + bytes(range(1, more + 1))

    index = int(place * len(file.blocks))
    blocks = tuple(longer(block) if i == index else block for i, block in enumerate(file.blocks))
    data = dataclasses.replace(file, blocks=blocks, grouped=longer(file.grouped) if file.grouped else b"").build()
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(names, edits)
def test_a_changed_header_under_a_right_hash(path: Path, name: str, edits: list[tuple[float, int]]) -> None:
    """Only adaptzip reads it: a changed shape may ask for more work than the slow decoder is made for."""
    data = golden(name)
    start = 8 + int.from_bytes(data[:8], "little")
    head = parts(name).head()
    read(path, hashed(data[:8] + changed(data[8:start], edits) + data[start:]))
    read(path, parts(name).build(changed(head, edits)))
    read(path, parts(name).build(parts(name).head(texts=changed(parts(name).texts(), edits))))


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from([0, 1, 2**31 - 1, 2**63, 10**30, "svd/1", "{0-9}", "\ud800"]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from places(item)


def mutated(value: Any, place: float, item: Any) -> Any:
    """A copy with one of its parts replaced."""
    copy = json.loads(json.dumps(value))
    found = list(places(copy))
    container, key = found[int(place * len(found))]
    container[key] = item
    return copy


@SETTINGS
@given(names, positions, json_values)
def test_mutated_metadata_under_a_right_hash(path: Path, name: str, place: float, item: Any) -> None:
    file = parts(name)
    metadata = mutated(dict(file.metadata), place, item)
    read(path, file.build(file.head(texts=file.texts(json.dumps(metadata)))))


options = st.sampled_from(
    [
        "rank",
        "length",
        "vectors",
        "top_k",
        "levels",
        "scale",
        "memory",
        "floor",
        "uniform",
        "order",
        "lora_rank",
        "sweeps",
    ]
    + ["tolerance", "min_energy", "lossless", "bottleneck", "layers", "activation", "bias"]
)


@SETTINGS
@given(st.sampled_from(NEW), options, st.one_of(json_values, st.integers(0, 9), st.sampled_from([0.5, 2.0, 2**40])))
def test_a_changed_option(path: Path, name: str, option: str, item: Any) -> None:
    file = parts(name)
    config = {**file.metadata.get("config", {}), option: item}
    data = file.build(file.head(texts=file.texts(json.dumps({**file.metadata, "config": config}))))
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(st.sampled_from(NEW), st.binary(max_size=8), st.sampled_from(["gains", "sizes", "offsets", "shared", "basis"]))
def test_a_changed_section(path: Path, name: str, content: bytes, section: str) -> None:
    changes: dict[str, Any] = {section: content}
    data = dataclasses.replace(parts(name), **changes).build()
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(st.sampled_from(["layouts", "extras-int8"]), positions, json_values)
def test_a_mutated_table_of_extras(path: Path, name: str, place: float, item: Any) -> None:
    file = parts(name)
    table = mutated(file.metadata["extras"], place, item)
    data = file.build(file.head(texts=file.texts(json.dumps({**file.metadata, "extras": table}))))
    assert agree(read(path, data), read_independently(data))


@SETTINGS
@given(st.binary(max_size=300))
def test_noise(path: Path, noise: bytes) -> None:
    assert read(path, noise) is None


@SETTINGS
@given(names, edits)
def test_looking_at_a_header_is_as_safe(path: Path, name: str, edits: list[tuple[float, int]]) -> None:
    from adaptzip.adz.container.reader import read_header

    path.unlink(missing_ok=True)
    path.write_bytes(changed(golden(name), edits))
    with contextlib.suppress(AdaptzipError):
        read_header(path)
