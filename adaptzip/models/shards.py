"""One weight file of a base model: its table of tensors, and reading one tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.core.scratch import Scratch
from adaptzip.errors import BaseModelError, CheckpointError, RefusedError
from adaptzip.files.dtypes import DTYPES
from adaptzip.files.json_values import json_values
from adaptzip.files.magic import is_pytorch, is_safetensors, refuse_pointers
from adaptzip.files.pytorch import QuantisedTensorError, load_tensors
from adaptzip.files.regular import open_regular
from adaptzip.files.weights import parse_header

_AGAIN = "download the base model again"
_START = 256
"""Bytes that tell what a file is."""
_QUANTISED = re.compile(r"F[468]_\w+|F4|[IU][124]")
"""safetensors' names of dtypes that only quantised weights have."""


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a weight file: name, dtype, shape and, in a safetensors file, the byte it starts at."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


@dataclass(frozen=True, eq=False)
class Shard:
    """One weight file.

    Attributes:
        path: the file.
        tensors: its entries by name.
        loaded: the tensors themselves of a PyTorch file, memory mapped where the file allows it, else None.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    loaded: Mapping[str, Tensor] | None = None

    def read(self, name: str, rows: tuple[int, int] | None = None, scratch: Scratch | None = None) -> Tensor:
        """A writable copy of one tensor, or of its rows from the first of `rows` to before the second.

        Args:
            name: the tensor's.
            rows: None for all.
            scratch: where the copy may be put, good until the next.
        """
        stored = self.tensors[name]
        if self.loaded is not None:
            whole = self.loaded[name].detach()
            return (whole if rows is None else whole[rows[0] : rows[1]]).clone().contiguous()
        offset, shape = stored.offset, stored.shape
        if rows is not None:
            offset += rows[0] * (stored.bytes // max(1, shape[0]))
            shape = (rows[1] - rows[0], *shape[1:])
        tensor = scratch.take("read", shape, stored.dtype) if scratch else torch.empty(shape, dtype=stored.dtype)
        if tensor.numel():
            with open_regular(self.path) as handle:
                handle.seek(offset)
                if handle.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data) != tensor.nbytes:
                    raise BaseModelError(f"{self.path}: ends inside the tensor {name}", hint=_AGAIN)
        return tensor

    def lies_plain(self, name: str) -> bool:
        """Whether the file holds the tensor's bytes as they are read."""
        return self.loaded is None


def open_shard(path: Path) -> Shard:
    """Read the table of tensors of a safetensors or PyTorch weight file.

    Raises:
        BaseModelError: if the file is missing, empty, truncated, a git-LFS pointer, or neither of the two.
        RefusedError: if it holds a dtype that only quantised weights have.
    """
    start = check_pointer(path)
    if not start:
        raise BaseModelError(f"{path}: the file is empty", hint=_AGAIN)
    return _open_pytorch(path) if is_pytorch(start) else _open_safetensors(path)


def check_pointer(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        BaseModelError: if it cannot be read, or only says where the real file is.
    """
    try:
        with open_regular(path) as handle:
            start = handle.read(_START)
        refuse_pointers(path, start)
    except CheckpointError as error:
        raise BaseModelError(str(error), hint=error.hint) from error
    except OSError as error:
        raise BaseModelError(f"{path}: cannot be read: {error.strerror or error}", hint=_AGAIN) from error
    return start


def read_metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says of it, empty where it says nothing; raises as `open_shard`."""
    return dict(_read_header(path)[0].get("__metadata__", {}))


def _open_safetensors(path: Path) -> Shard:
    entries, begin = _read_header(path)
    entries.pop("__metadata__", None)
    return Shard(
        path,
        {
            name: StoredTensor(name, DTYPES[entry["dtype"]], tuple(entry["shape"]), begin + entry["data_offsets"][0])
            for name, entry in entries.items()
        },
    )


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header's entries, and the byte that the tensors begin at."""
    size = path.stat().st_size
    with open_regular(path) as handle:
        start = handle.read(9)
        length = int.from_bytes(start[:8], "little")
        if not is_safetensors(start):
            raise BaseModelError(f"{path}: is not a safetensors file", hint=_AGAIN)
        if 8 + length > size:
            raise BaseModelError(f"{path}: is truncated inside its header", hint=_AGAIN)
        header = start[8:] + handle.read(length - 1)
    try:
        entries = parse_header(path, header, size - 8 - length)
    except CheckpointError as error:
        _refuse_quantised(path, header)
        raise BaseModelError(str(error), hint=_AGAIN) from error
    return entries, 8 + length


def _refuse_quantised(path: Path, header: bytes) -> None:
    """Raise a RefusedError if a header that could not be parsed has the dtype of quantised weights."""
    try:
        entries = json_values(header)
    except (ValueError, RecursionError):
        return
    if not isinstance(entries, dict):
        return
    named = [entry.get("dtype") for entry in entries.values() if isinstance(entry, dict)]
    found = sorted({dtype for dtype in named if isinstance(dtype, str) and _QUANTISED.fullmatch(dtype)})
    if found:
        raise quantised(path, f"it holds {found[0]}")


_FLOATS = "give the original float weights; what was merged into them can be quantised again"


def quantised(path: Path, which: str, hint: str = _FLOATS) -> RefusedError:
    """The error about a base model in `path`, a folder or file, whose weights are quantised."""
    return RefusedError(f"{path}: is quantised ({which}), expected the model in float weights", hint=hint)


def _open_pytorch(path: Path) -> Shard:
    try:
        loaded = load_tensors(path, mapped=True)
    except QuantisedTensorError as error:
        raise quantised(path, error.what) from error
    except CheckpointError as error:
        raise BaseModelError(str(error), hint=error.hint) from error
    tensors = {name: StoredTensor(name, value.dtype, tuple(value.shape)) for name, value in loaded.items()}
    return Shard(path, tensors, loaded)
