"""One weight file of a base model: its table of tensors, and reading one tensor at a time."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.checkpoints._files import parse_header
from adaptzip.dtypes import DTYPES, NAMES
from adaptzip.errors import BaseModelError, CheckpointError, RefusedError

_AGAIN = "download the base model again"
_HEADER_LIMIT = 100_000_000
_POINTER = b"version https://git-lfs"
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

    def read(self, name: str) -> Tensor:
        """A writable copy of one tensor."""
        stored = self.tensors[name]
        if self.loaded is not None:
            return self.loaded[name].detach().clone().contiguous()
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        if tensor.numel():
            with self.path.open("rb") as handle:
                handle.seek(stored.offset)
                if handle.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data) != stored.bytes:
                    raise BaseModelError(f"{self.path}: ends inside the tensor {name}", hint=_AGAIN)
        return tensor


def open_shard(path: Path) -> Shard:
    """Read the table of tensors of a safetensors or PyTorch weight file.

    Raises:
        BaseModelError: if the file is missing, empty, truncated, a git-LFS pointer, or neither of the two.
        RefusedError: if it holds a dtype that only quantised weights have.
    """
    check_pointer(path)
    with path.open("rb") as handle:
        start = handle.read(9)
    if not start:
        raise BaseModelError(f"{path}: the file is empty", hint=_AGAIN)
    return _open_pytorch(path) if _is_pytorch(start) else _open_safetensors(path)


def check_pointer(path: Path) -> None:
    """Raise a BaseModelError if a file cannot be read or is a git-LFS pointer."""
    try:
        with path.open("rb") as handle:
            start = handle.read(len(_POINTER))
    except OSError as error:
        raise BaseModelError(f"{path}: cannot be read: {error.strerror or error}", hint=_AGAIN) from error
    if start == _POINTER:
        raise BaseModelError(
            f"{path}: is a git-LFS pointer, not the file itself", hint="run `git lfs pull` in its repository"
        )


def _is_pytorch(start: bytes) -> bool:
    """A safetensors file may start with a pickle's first byte too, as part of its header's length."""
    return start.startswith((b"PK\x03\x04", b"\x80")) and start[4:] != b"\0\0\0\0{"


def _open_safetensors(path: Path) -> Shard:
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 10 or not 2 <= length <= _HEADER_LIMIT or handle.peek(1)[:1] != b"{":
            raise BaseModelError(f"{path}: is not a safetensors file", hint=_AGAIN)
        if 8 + length > size:
            raise BaseModelError(f"{path}: is truncated inside its header", hint=_AGAIN)
        header = handle.read(length)
    try:
        entries = parse_header(path, header, size - 8 - length)
    except CheckpointError as error:
        _refuse_quantised(path, header)
        raise BaseModelError(str(error), hint=_AGAIN) from error
    entries.pop("__metadata__", None)
    return Shard(
        path,
        {
            name: StoredTensor(
                name, DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
            )
            for name, entry in entries.items()
        },
    )


def _refuse_quantised(path: Path, header: bytes) -> None:
    """Raise a RefusedError if a header that could not be parsed has the dtype of quantised weights."""
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        return
    if not isinstance(entries, dict):
        return
    named = {entry.get("dtype") for entry in entries.values() if isinstance(entry, dict)}
    found = sorted(dtype for dtype in named if isinstance(dtype, str) and _QUANTISED.fullmatch(dtype))
    if found:
        raise quantised(path, f"it holds {found[0]}")


def quantised(path: Path, which: str) -> RefusedError:
    """The error about a base model in `path`, a folder or file, whose weights are quantised."""
    return RefusedError(
        f"{path}: is quantised ({which}), expected the model in float weights",
        hint="give the original float weights; what was merged into them can be quantised again",
    )


def _open_pytorch(path: Path) -> Shard:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise BaseModelError(
            f"{path}: holds more than tensors, and loading it could run code",
            hint="save the base model as safetensors where you trust it",
        ) from error
    except _BROKEN as error:
        raise BaseModelError(f"{path}: is not a readable PyTorch file", hint=_AGAIN) from error
    if not isinstance(loaded, Mapping):
        raise BaseModelError(f"{path}: expected a table of tensors", hint="save the model's state_dict()")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            found = type(value).__name__
            raise BaseModelError(
                f"{path}: expected tensors by name, found {found} under {name!r}", hint="save the model's state_dict()"
            )
        _check_plain(path, name, value)
    tensors = {name: StoredTensor(name, value.dtype, tuple(value.shape)) for name, value in loaded.items()}
    return Shard(path, tensors, dict(loaded))


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Raise unless a safetensors file can hold the tensor."""
    short = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_quantized or short.startswith(("float8", "float4")):
        raise quantised(path, f"{name} is {short}")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in NAMES:
        kind = "without content" if tensor.is_meta else f"{short} with layout {tensor.layout}"
        raise BaseModelError(
            f"{path}: the tensor {name} is {kind}, expected a dense tensor of numbers",
            hint="save the model's state_dict()",
        )


_BROKEN = (
    *(RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError),
    *(AssertionError, ArithmeticError, ImportError, struct.error),
)
"""What torch.load raises on damaged files."""


def _is_zip(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4) == b"PK\x03\x04"
