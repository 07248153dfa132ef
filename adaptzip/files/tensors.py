"""Writing safetensors files tensor by tensor, with bytes that depend on nothing but the tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from adaptzip.errors import CheckpointError
from adaptzip.files.dtypes import NAMES
from adaptzip.files.json_values import json_values
from adaptzip.files.weights import parse_header


class Form(Protocol):
    """What a header says of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype in the file."""


@dataclass(frozen=True)
class Pending:
    """A tensor to be written: known by shape and dtype, made when its turn comes, so that memory stays low.

    Attributes:
        shape: its shape.
        dtype: its dtype in the file.
        make: makes it, in any dtype; it is cast when written.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def pending(tensor: Tensor, dtype: torch.dtype | None = None) -> Pending:
    """A tensor that is there already, to be written in `dtype` (None: its own)."""
    return Pending(tuple(tensor.shape), dtype or tensor.dtype, lambda: tensor)


def build_header(tensors: Mapping[str, Form], metadata: Mapping[str, str]) -> bytes:
    """The header that the safetensors library writes for these tensors: larger dtypes first, then by name.

    It is padded with spaces to a multiple of 8 bytes (safetensors format specification).
    """
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for key in sorted(tensors, key=lambda k: (-_rank(tensors[k].dtype), k)):
        tensor = tensors[key]
        end = position + _size(tensor)
        entries[key] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return header + b" " * (-len(header) % 8)


def write_tensors(handle: BinaryIO, tensors: Mapping[str, Pending], header: bytes) -> None:
    """Write a safetensors file with the given header, one tensor after the other."""
    entries = json.loads(header)
    entries.pop("__metadata__", None)
    handle.write(len(header).to_bytes(8, "little"))
    handle.write(header)
    for key in sorted(entries, key=lambda k: tuple(entries[k]["data_offsets"])):
        if _size(tensors[key]):
            tensor = tensors[key].make().detach().to("cpu", tensors[key].dtype).contiguous()
            handle.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def fits(tensors: Mapping[str, Pending], header: bytes) -> bool:
    """Whether `header` is the header of exactly these tensors, one after the other."""
    entries = _entries(header, sum(map(_size, tensors.values())))
    metadata = entries.pop("__metadata__", {})
    return (
        entries.keys() == tensors.keys()
        and all(isinstance(text, str) for text in metadata.values())
        and all(
            entry["dtype"] == NAMES.get(tensors[key].dtype) and entry["shape"] == list(tensors[key].shape)
            for key, entry in entries.items()
        )
    )


def header_keys(header: bytes | None) -> Collection[str]:
    """The keys of the tensors in a header; none where it is not one, as in a hostile file."""
    return header_entries(header).keys()


def header_entries(header: bytes | None) -> Mapping[str, Any]:
    """What a header says of each tensor, not checked; nothing where it is no header, as in a hostile file."""
    try:
        entries = json_values(header or b"{}")
    except (ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _entries(header: bytes, data_size: int) -> dict[str, Any]:
    try:
        return parse_header(Path("header"), header, data_size) if header.startswith(b"{") else {}
    except CheckpointError:
        return {}


def _size(tensor: Form) -> int:
    size = tensor.dtype.itemsize
    for dimension in tensor.shape:
        size *= dimension
    return size


def _rank(dtype: torch.dtype) -> int:
    """The safetensors library's order of dtypes, the last of which it writes first."""
    return _LIBRARY_ORDER.index(NAMES[dtype])


_LIBRARY_ORDER = (
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64",
    "U64",
)  # fmt: skip
