"""Writing safetensors files tensor by tensor, with bytes that depend on nothing but the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from adaptzip.checkpoints._files import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The safetensors library sorts tensors by falling alignment of their dtype, then by name.
_ORDER = {name: place for place, name in enumerate(
    ("U64", "I64", "F64", "U32", "I32", "F32", "BF16", "F16", "U16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")
)}


def build_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The safetensors header of `tensors`, padded with spaces to a multiple of 8 bytes."""
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for key in sorted(tensors, key=lambda k: (_ORDER[_NAMES[tensors[k].dtype]], k)):
        tensor = tensors[key]
        end = position + tensor.numel() * tensor.element_size()
        entries[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return header + b" " * (-len(header) % 8)


def write_tensors(handle: BinaryIO, tensors: Mapping[str, Tensor], header: bytes) -> None:
    """Write a safetensors file with the given header, streaming one tensor after the other."""
    entries = json.loads(header)
    entries.pop("__metadata__", None)
    handle.write(len(header).to_bytes(8, "little"))
    handle.write(header)
    for key in sorted(entries, key=lambda k: tuple(entries[k]["data_offsets"])):
        tensor = tensors[key].detach().cpu().contiguous()
        if tensor.numel():
            handle.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))


def fits(tensors: Mapping[str, Tensor], header: bytes) -> bool:
    """Whether `header` describes exactly these tensors."""
    entries = json.loads(header)
    entries.pop("__metadata__", None)
    return entries.keys() == tensors.keys() and all(
        e["dtype"] == _NAMES.get(tensors[k].dtype) and e["shape"] == list(tensors[k].shape) for k, e in entries.items()
    )
