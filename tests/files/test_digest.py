"""Digests of files, whole and sampled."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from adaptzip.files.digest import sampled_digest, sha256_of

MIB = 2**20


def test_the_whole_file(tmp_path: Path) -> None:
    for size in (0, 5, MIB + 1):
        (tmp_path / "f").write_bytes(bytes(size))
        assert sha256_of(tmp_path / "f") == hashlib.sha256(bytes(size)).hexdigest()


def test_a_sample_of_a_small_file_is_all_of_it(tmp_path: Path) -> None:
    content = bytearray(2 * MIB)
    (tmp_path / "f").write_bytes(content)
    first = sampled_digest(tmp_path / "f")
    assert first == hashlib.sha256(len(content).to_bytes(8, "little") + content).hexdigest()
    content[MIB + 1234] = 1
    (tmp_path / "f").write_bytes(content)
    assert sampled_digest(tmp_path / "f") != first


@pytest.mark.parametrize("place", [0, MIB - 1, MIB, MIB + 4095, 5 * MIB, 9 * MIB + 6])
def test_a_sample_of_a_large_file(place: int, tmp_path: Path) -> None:
    """Its beginning, its end, and blocks between; 5 MiB lies between two of them."""
    content = bytearray(9 * MIB + 7)
    (tmp_path / "f").write_bytes(content)
    first = sampled_digest(tmp_path / "f")
    content[place] = 1
    (tmp_path / "f").write_bytes(content)
    assert (sampled_digest(tmp_path / "f") == first) is (place == 5 * MIB)
    (tmp_path / "f").write_bytes(content + b"\0")
    assert sampled_digest(tmp_path / "f") != first
