"""Files read whole or mapped: one that shrinks meanwhile ends nothing."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adaptzip.files import regular
from adaptzip.files.regular import contents, open_regular, read_regular
from adaptzip.files.weights import open_weights


def test_a_small_file_is_in_memory_and_a_large_one_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 5000)
    for large, kind in ((15_000, bytearray), (14_999, mmap.mmap)):
        monkeypatch.setattr(regular, "LARGE", large)
        with open_regular(path) as handle:
            assert handle.read(3) == b"abc"
            found = contents(handle)
        assert isinstance(found, kind)
        assert bytes(found[:]) == b"abc" * 5000
    assert read_regular(path) == b"abc" * 5000


def test_weights_outlive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(100_000.0)}, path)
    opened = open_weights(path)
    with path.open("r+b") as handle:
        handle.truncate(10)
    assert float(opened.tensors["a"].sum()) == float(torch.arange(100_000.0).sum())
