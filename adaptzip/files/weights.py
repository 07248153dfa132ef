"""Opening weight files: safetensors memory mapped, PyTorch's `.bin` without running any code in it."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.errors import CheckpointError
from adaptzip.files.dtypes import DTYPES
from adaptzip.files.json_values import json_values
from adaptzip.files.magic import is_pytorch, is_safetensors, refuse_others
from adaptzip.files.names import check_keys
from adaptzip.files.pytorch import load_tensors
from adaptzip.files.regular import contents, open_regular

_AGAIN = "download or save it again"
_DIMENSIONS = 64
"""Most dimensions of a tensor that PyTorch can compute with."""


@dataclass(frozen=True, eq=False)
class Weights:
    """The tensors of one file by key, its metadata, and its safetensors header (None for a `.bin`)."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    header: bytes | None


def open_weights(path: Path) -> Weights:
    """Open a weight file by its content, whatever its name.

    Raises:
        CheckpointError: if it is empty, truncated, or neither safetensors nor a PyTorch file.
        OSError: if the system cannot read it.
    """
    with open_regular(path) as handle:
        start = handle.read(256)
        if not is_safetensors(start):
            refuse_others(path, start)
        if is_pytorch(start):
            return Weights(load_tensors(path, nested=True), {}, None)
        return _open_safetensors(path, contents(handle))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _open_safetensors(path: Path, data: bytearray | mmap.mmap) -> Weights:
    size, length = len(data), int.from_bytes(data[:8], "little")
    if not is_safetensors(bytes(data[:9])):
        raise CheckpointError(f"{path}: is not a safetensors file, nor one of PyTorch", hint=_AGAIN)
    if 8 + length > size:
        raise CheckpointError(f"{path}: is truncated inside its header", hint=_AGAIN)
    header = bytes(data[8 : 8 + length])
    entries = parse_header(path, header, size - 8 - length)
    metadata = entries.pop("__metadata__", {})
    tensors = {key: _tensor(data, 8 + length, entry) for key, entry in entries.items()}
    return Weights(tensors, metadata, header)


def parse_header(path: Path, header: bytes, data_size: int) -> dict[str, Any]:
    """Parse and check a safetensors header against the size of the data that follows it.

    Raises:
        CheckpointError: if it is not the header of `data_size` bytes of tensors without gap or overlap.
    """
    try:
        entries: Any = json_values(header, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its safetensors header is not JSON as it should be ({_line(error)})", hint=_AGAIN
        ) from error
    if isinstance(entries, dict) and entries.get("__metadata__", {}) is None:
        del entries["__metadata__"]  # MLX writes null there.
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise CheckpointError(f"{path}: its safetensors header is not a table of tensors", hint=_AGAIN)
    expected = 0
    named = {key: entry for key, entry in entries.items() if key != "__metadata__"}
    check_keys(path, named)
    for key, entry in named.items():
        _check_entry(path, key, entry)
    for key, entry in sorted(named.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        begin, end = entry["data_offsets"]
        if begin != expected:
            raise CheckpointError(f"{path}: tensor {key} starts at byte {begin}, expected {expected}", hint=_AGAIN)
        expected = end
    if expected != data_size:
        what = "is truncated" if data_size < expected else "has bytes after its tensors"
        raise CheckpointError(f"{path}: {what}: expected {expected} data bytes, found {data_size}", hint=_AGAIN)
    return entries


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys must be text and differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    "".join(found).encode()  # Half a surrogate pair is JSON, and no text.
    return found


def _check_entry(path: Path, key: str, entry: Mapping[str, Any]) -> None:
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    dtype: Any = entry.get("dtype")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: tensor {key} has a malformed header entry", hint=_AGAIN)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {key} has dtype {str(dtype)[:40]}, expected one of {', '.join(DTYPES)}", hint=_AGAIN
        )
    size = DTYPES[dtype].itemsize
    for dimension in shape:
        size *= dimension
    if offsets[1] - offsets[0] != size:
        raise CheckpointError(
            f"{path}: tensor {key} {shape} {dtype} needs {size} bytes, found {offsets[1] - offsets[0]}",
            hint=_AGAIN,
        )
    if len(shape) > _DIMENSIONS or prod(max(d, 1) for d in shape) >= 2**62:
        raise CheckpointError(f"{path}: tensor {key} has a shape that no tensor can have", hint=_AGAIN)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _tensor(data: bytearray | mmap.mmap, start: int, entry: Mapping[str, Any]) -> Tensor:
    dtype, (begin, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    offset = start + begin
    if offset % dtype.itemsize:
        raw = torch.frombuffer(bytearray(data[offset : start + end]), dtype=dtype)
    else:
        raw = torch.frombuffer(data, dtype=dtype, count=(end - begin) // dtype.itemsize, offset=offset)
    return raw.reshape(entry["shape"])
