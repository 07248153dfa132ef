"""What is read as safetensors by hand is what the safetensors library reads, and nothing that it refuses is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from adaptzip.errors import CheckpointError
from adaptzip.files.weights import open_weights

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.int16), "c": torch.empty(0, 2)}
WHOLE = save(TENSORS, {"format": "pt"})
LENGTH = int.from_bytes(WHOLE[:8], "little")


def by_library(path: Path) -> dict[str, torch.Tensor] | None:
    """None where the library refuses."""
    try:
        with safe_open(path, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError, OverflowError, TypeError):
        return None


def by_hand(path: Path) -> dict[str, torch.Tensor] | None:
    try:
        return dict(open_weights(path).tensors)
    except CheckpointError:
        return None


def check(content: bytes, folder: Path) -> None:
    path = folder / "f.safetensors"
    path.write_bytes(content)
    found, theirs = by_hand(path), by_library(path)
    if found is None:
        return
    assert theirs is not None
    assert found.keys() == theirs.keys()
    for name, tensor in found.items():
        assert tensor.dtype == theirs[name].dtype
        assert tensor.shape == theirs[name].shape
        assert tensor.numpy().tobytes() == theirs[name].numpy().tobytes()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_a_changed_byte(place: int, byte: int, tmp_path: Path) -> None:
    check(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :], tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, len(WHOLE) - 1), more=st.binary(max_size=2))
def test_a_cut(size: int, more: bytes, tmp_path: Path) -> None:
    check(WHOLE[:size] + more, tmp_path)


numbers = st.integers(-1, 30) | st.integers(2**62, 2**65)
entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I16", "F16", "U8", "BOOL", "F4", "x"]),
        "shape": st.lists(st.integers(0, 6) | numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=2, max_size=2) | st.just([0, 24]),
    }
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.dictionaries(st.sampled_from(["a", "b"]), entry, min_size=1), size=st.integers(0, 30))
def test_other_headers(entries: dict[str, object], size: int, tmp_path: Path) -> None:
    header = json.dumps(entries).encode()
    check(len(header).to_bytes(8, "little") + header + bytes(size), tmp_path)


def test_what_is_whole_is_read_by_both(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    path.write_bytes(WHOLE)
    found, theirs = by_hand(path), by_library(path)
    assert found is not None
    assert theirs is not None
    assert found.keys() == theirs.keys() == TENSORS.keys()
    check(WHOLE, tmp_path)


@pytest.mark.parametrize("extra", ['"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}', '"a": 1'])
def test_a_name_that_stands_twice_is_refused(extra: str, tmp_path: Path) -> None:
    header = f'{{"a": {{"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, {extra}}}'.encode()
    path = tmp_path / "f.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    with pytest.raises(CheckpointError, match="a key stands in it twice"):
        open_weights(path)
