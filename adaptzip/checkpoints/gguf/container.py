"""Opening a LoRA in GGUF, which may be anybody's."""

from __future__ import annotations

import mmap
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.checkpoints._gguf.header import Entry, check_places, read_header
from adaptzip.errors import CheckpointError, RefusedError
from adaptzip.files.regular import contents, open_regular
from adaptzip.files.weights import Weights

_FLOATS = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
_Q8_0, _BLOCK = 8, 32
_INVOCATION = "adapter.alora.invocation_tokens"


def open_gguf(path: Path) -> Weights:
    """Open a GGUF file: its tensors by key, those in 8 bits as float32, and its values as text, lists left out.

    Raises:
        CheckpointError: if it is malformed or truncated.
        RefusedError: if its tensors are in another type than floats and q8_0, or it is an aLoRA.
        OSError: if the system cannot read it.
    """
    with open_regular(path) as handle:
        data = contents(handle)
    header = read_header(path, data)
    if _INVOCATION in header.values:
        raise RefusedError(
            f"{path}: is an aLoRA, which counts after its invocation tokens ({_INVOCATION}) alone",
            hint="it is no update of the weights, and stays as it is",
        )
    sizes = [_size(path, entry) for entry in header.entries]
    check_places(path, header, sizes)
    places = zip(header.entries, sizes, strict=True)
    found = {entry.key: _tensor(data, header.start, entry, size) for entry, size in places}
    metadata = {key: value.text for key, value in header.values.items() if value.text is not None}
    return Weights(found, metadata, None)


def _size(path: Path, entry: Entry) -> int:
    if entry.kind in _FLOATS:
        return prod(entry.shape) * _FLOATS[entry.kind].itemsize
    if entry.kind != _Q8_0:
        raise RefusedError(
            f"{path}: tensor {entry.key} is of ggml's type {entry.kind}, expected f32, f16, bf16 or q8_0",
            hint="convert the adapter with --outtype f16",
        )
    if entry.shape[-1] % _BLOCK:
        raise CheckpointError(
            f"{path}: tensor {entry.key} {list(entry.shape)} in q8_0 has rows that no blocks of 32 fill"
        )
    return prod(entry.shape) // _BLOCK * (_BLOCK + 2)


def _tensor(data: bytearray | mmap.mmap, start: int, entry: Entry, size: int) -> Tensor:
    offset = start + entry.begin
    if entry.kind == _Q8_0:
        blocks = torch.frombuffer(data, dtype=torch.uint8, count=size, offset=offset).reshape(-1, _BLOCK + 2)
        scales = blocks[:, :2].clone().view(torch.float16).float()
        return (blocks[:, 2:].view(torch.int8).float() * scales).reshape(entry.shape)
    found = torch.frombuffer(data, dtype=_FLOATS[entry.kind], count=prod(entry.shape), offset=offset)
    return found.reshape(entry.shape)
