"""Opening a GGUF file, which may be anybody's: nothing in it is trusted before it is checked against the file's size.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian. The library gguf is
not used for it: it loops over counts as they stand in the file.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.errors import CheckpointError, RefusedError
from adaptzip.files.weights import Weights

MAGIC = b"GGUF"
_AGAIN = "download or convert it again"
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The types of values, but for text and lists, by `struct`'s letters."""
_TEXT, _LIST = 8, 9
_FLOATS = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}
_Q8_0, _BLOCK = 8, 32
_DIMENSIONS = 4
_ALIGNMENT = "general.alignment"


class _Cursor:
    """Reads a file from its beginning, and remembers where it is."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position = path, data, 0

    def take(self, size: int) -> bytes:
        """Raises: CheckpointError: if the file ends before."""
        end = self.position + size
        if end > len(self.data):
            raise CheckpointError(f"{self.path}: is truncated inside its header", hint=_AGAIN)
        found = self.data[self.position : end]
        self.position = end
        return found

    def number(self, letter: str) -> int | float | bool:
        found: int | float | bool = struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))[0]
        return found

    def count(self) -> int:
        return int(self.number("Q"))

    def text(self) -> str:
        """Raises: CheckpointError: if it is no UTF-8."""
        try:
            return self.take(self.count()).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: has a name or text that is no UTF-8", hint=_AGAIN) from error

    def value(self) -> str | None:
        """A value as text; None for a list, which nothing here asks for.

        Raises:
            CheckpointError: for a type that there is not, and lists of lists.
        """
        kind = self.number("I")
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return str(self.number(self._letter(kind)))
        of, length = self.number("I"), self.count()
        if of == _TEXT:
            for _ in range(length):
                self.take(self.count())
        else:
            self.take(struct.calcsize(f"<{self._letter(of)}") * length)
        return None

    def _letter(self, kind: float) -> str:
        if kind not in _NUMBERS:
            raise CheckpointError(f"{self.path}: has a value of the unknown type {kind}", hint=_AGAIN)
        return _NUMBERS[int(kind)]


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header has it: its shape as torch has it, its type, its place in the data, and its size there."""

    key: str
    shape: tuple[int, ...]
    kind: int
    begin: int
    size: int


def open_gguf(path: Path) -> Weights:
    """Open a GGUF file: its tensors by key, those in 8 bits as float32, and its values as text, lists left out.

    Raises:
        CheckpointError: if it is malformed or truncated.
        RefusedError: if its tensors are in another type than floats and q8_0.
        OSError: if the system cannot read it.
    """
    with path.open("rb") as handle:
        data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
    cursor = _Cursor(path, data)
    cursor.take(len(MAGIC))
    version = cursor.number("I")
    if version not in (2, 3):
        raise CheckpointError(
            f"{path}: is a GGUF file of version {version}, expected 2 or 3 in little endian", hint="convert it again"
        )
    tensors, values = cursor.count(), cursor.count()
    metadata = {cursor.text(): cursor.value() for _ in range(values)}
    entries = [_entry(cursor) for _ in range(tensors)]
    if len(metadata) != values or len({entry.key for entry in entries}) != tensors:
        raise CheckpointError(f"{path}: has a key twice", hint=_AGAIN)
    alignment = _alignment(path, metadata)
    start = -(-cursor.position // alignment) * alignment
    _check_places(path, entries, alignment, len(data) - start)
    found = {entry.key: _tensor(data, start, entry) for entry in entries}
    return Weights(found, {key: value for key, value in metadata.items() if value is not None}, None)


def _entry(cursor: _Cursor) -> _Entry:
    key, dimensions = cursor.text(), int(cursor.number("I"))
    if not 1 <= dimensions <= _DIMENSIONS:
        raise CheckpointError(f"{cursor.path}: tensor {key} has {dimensions} dimensions", hint=_AGAIN)
    shape = tuple(cursor.count() for _ in range(dimensions))[::-1]
    if not all(shape):
        raise CheckpointError(f"{cursor.path}: tensor {key} is empty: {list(shape)}", hint=_AGAIN)
    kind, begin = int(cursor.number("I")), cursor.count()
    return _Entry(key, shape, kind, begin, _size(cursor.path, key, shape, kind))


def _size(path: Path, key: str, shape: tuple[int, ...], kind: int) -> int:
    if kind in _FLOATS:
        return prod(shape) * _FLOATS[kind].itemsize
    if kind != _Q8_0:
        raise RefusedError(
            f"{path}: tensor {key} is of ggml's type {kind}, expected f32, f16, bf16 or q8_0",
            hint="convert the adapter with --outtype f16",
        )
    if shape[-1] % _BLOCK:
        raise CheckpointError(f"{path}: tensor {key} {list(shape)} in q8_0 has rows that no blocks of 32 fill")
    return prod(shape) // _BLOCK * (_BLOCK + 2)


def _alignment(path: Path, metadata: dict[str, str | None]) -> int:
    told = metadata.get(_ALIGNMENT, "32")
    alignment = int(told) if told is not None and told.isdecimal() else 0
    if alignment < 8 or alignment & (alignment - 1) or alignment > 2**20:
        raise CheckpointError(f"{path}: {_ALIGNMENT} is {told}, expected a power of two from 8 on", hint=_AGAIN)
    return alignment


def _check_places(path: Path, entries: list[_Entry], alignment: int, room: int) -> None:
    """Tensors lie one after the other, each at the next multiple of the alignment, and fill the file."""
    expected = end = 0
    for entry in entries:
        if entry.begin != expected:
            raise CheckpointError(
                f"{path}: tensor {entry.key} starts at byte {entry.begin}, expected {expected}", hint=_AGAIN
            )
        end = entry.begin + entry.size
        expected = -(-end // alignment) * alignment
    if end > max(room, 0) or room > expected:
        what = "is truncated" if end > room else "has bytes after its tensors"
        raise CheckpointError(f"{path}: {what}: expected {end} data bytes, found {max(room, 0)}", hint=_AGAIN)


def _tensor(data: mmap.mmap, start: int, entry: _Entry) -> Tensor:
    offset = start + entry.begin
    if entry.kind == _Q8_0:
        blocks = torch.frombuffer(data, dtype=torch.uint8, count=entry.size, offset=offset).reshape(-1, _BLOCK + 2)
        scales = blocks[:, :2].clone().view(torch.float16).float()
        return (blocks[:, 2:].view(torch.int8).float() * scales).reshape(entry.shape)
    return torch.frombuffer(data, dtype=_FLOATS[entry.kind], count=prod(entry.shape), offset=offset).reshape(
        entry.shape
    )
