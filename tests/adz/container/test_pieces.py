"""Files of several pieces: opened without being read, and every piece checked before it is used."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptzip
from adaptzip.adz.container import payload, writer
from adaptzip.adz.container.payload import HASH, Blocks, Payload, piece_hashes, sha
from adaptzip.adz.container.reader import read_header
from adaptzip.core.compressed import Compressed, ExtraEntry, PackedExtras
from adaptzip.errors import FormatError
from adaptzip.testing.adapters import adapter

PIECE = payload.PIECE
FILLER = 2 * PIECE + 77
"""Bytes of an extra: the payload is three pieces, and the blocks are in the first."""


@pytest.fixture(scope="module")
def compressed() -> Compressed:
    made = adaptzip.compress(adapter({"a": (20, 30, 2), "b": (9, 7, 1)}), max_error=0.2)
    plane = struct.pack("<BQ", 0, FILLER) + bytes(range(251)) * (FILLER // 251 + 1)
    entry = ExtraEntry("extra", "filler", "U8", (FILLER,), "U8")
    return dataclasses.replace(made, grouped=b"", extras=PackedExtras((entry,), plane[: 9 + FILLER]))


@pytest.fixture
def path(compressed: Compressed, tmp_path: Path) -> Path:
    assert writer.write(compressed, tmp_path / "x.adz") == writer.size(compressed)
    return tmp_path / "x.adz"


def flip(path: Path, place: int) -> None:
    """Change a byte, counted from the end of the file where `place` is negative."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_each_piece_has_a_hash_before_the_payload(compressed: Compressed, path: Path) -> None:
    opened, data = read_header(path), path.read_bytes()
    first = opened.header_bytes
    body = data[first:]
    assert len(body) == opened.payload.__len__() == sum(len(c) for c in compressed.chunks) + 9 + FILLER
    hashes = [sha(body[place : place + PIECE]) for place in range(0, len(body), PIECE)]
    assert data[first - 3 * HASH : first] == b"".join(hashes)


def test_opening_reads_no_piece(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Payload, "_read", lambda *_: pytest.fail("a piece was read"))
    assert adaptzip.open(path).modules == ("a", "b")


def test_a_module_reads_its_piece_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = Payload._read

    def spy(self: Payload, number: int) -> bytes:
        read.append(number)
        return plain(self, number)

    monkeypatch.setattr(Payload, "_read", spy)
    part = adaptzip.reconstruct(path, modules=["b"])
    assert list(part.modules) == ["b"]
    assert set(read) == {0}
    adaptzip.reconstruct(path)
    assert set(read) == {0, 1, 2}


@pytest.mark.parametrize("place", [-1, -PIECE - 100, -2 * PIECE - 70])
def test_a_changed_byte_is_found_when_its_piece_is_read(path: Path, place: int) -> None:
    flip(path, place)
    opened = adaptzip.open(path)
    if place >= -2 * PIECE:
        assert list(adaptzip.reconstruct(path, modules=["a"]).modules) == ["a"]
    with pytest.raises(FormatError, match="its hash does not match"):
        bytes(opened.extras.payload)
    with pytest.raises(FormatError, match=rf"^{path}: the file is damaged: its hash does not match"):
        adaptzip.reconstruct(path)


def test_a_changed_byte_before_the_payload_is_found_at_once(path: Path) -> None:
    plain, end = path.read_bytes(), read_header(path).header_bytes
    for place in range(0, end, 3):
        path.write_bytes(plain)
        flip(path, place)
        with pytest.raises(adaptzip.AdaptzipError):
            adaptzip.open(path)


def test_a_file_that_is_cut_underneath_gives_an_error(path: Path) -> None:
    opened = adaptzip.open(path)
    os.truncate(path, 1000)
    with pytest.raises(FormatError, match="was cut or grew after it was opened"):
        opened.chunks[0]


def test_a_small_file_is_read_when_it_is_opened(compressed: Compressed, tmp_path: Path) -> None:
    small = dataclasses.replace(compressed, extras=PackedExtras())
    writer.write(small, tmp_path / "x.adz")
    opened = adaptzip.open(tmp_path / "x.adz")
    os.truncate(tmp_path / "x.adz", 0)
    assert list(map(bytes, opened.chunks)) == list(map(bytes, small.chunks))


def test_what_is_opened_can_be_written_again(path: Path, tmp_path: Path) -> None:
    writer.write(adaptzip.open(path), tmp_path / "y.adz")
    assert (tmp_path / "y.adz").read_bytes() == path.read_bytes()


def test_blocks_are_a_row(compressed: Compressed) -> None:
    blocks = Blocks(Payload(memoryview(b"xabbccc"), 0, b""), 1, [1, 0, 2, 3])
    assert list(map(bytes, blocks)) == [b"a", b"", b"bb", b"ccc"]
    assert bytes(blocks[-1]) == b"ccc"
    assert list(map(bytes, blocks[1:3])) == [b"", b"bb"]
    assert len(blocks) == 4
    with pytest.raises(IndexError):
        blocks[4]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_part_of_a_payload_is_what_was_written(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload, "PIECE", 8)
        parts = data.draw(st.lists(st.binary(max_size=20), max_size=8))
        whole = b"".join(parts)
        hashes = piece_hashes(parts, len(whole))
        assert hashes == (b"".join(sha(whole[i : i + 8]) for i in range(0, len(whole), 8)) if len(whole) > 8 else b"")
        found = Payload(memoryview(b"before" + whole), 6, hashes)
        first = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(first, len(whole)))
        assert bytes(found.read(first, end)) == whole[first:end]
        found.check()
