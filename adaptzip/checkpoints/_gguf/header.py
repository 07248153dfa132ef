"""The header of a GGUF file, which may be anybody's: nothing in it is trusted before it is checked against the file's
size.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian. The library gguf is
not used for it: it loops over counts as they stand in the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptzip.errors import CheckpointError

MAGIC = b"GGUF"
TEXT, LIST, UINT32 = 8, 9, 4
"""Types of values."""
AGAIN = "download or convert it again"
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The types of values, but for text and lists, by `struct`'s letters."""
_DIMENSIONS = 4
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class Value:
    """What a header says under one key.

    Attributes:
        key: the key.
        kind: its type.
        text: the value as text; None for a list.
        begin, end: the bytes of the file that hold key, type and value.
    """

    key: str
    kind: int
    text: str | None
    begin: int
    end: int


@dataclass(frozen=True)
class Entry:
    """A tensor as the header has it: its shape as torch has it, ggml's number of its type, its place in the data."""

    key: str
    shape: tuple[int, ...]
    kind: int
    begin: int


@dataclass(frozen=True)
class Header:
    """A header.

    Attributes:
        values: what it says, by key, in order.
        entries: its tensors, in order.
        alignment: a multiple of which every tensor's place is.
        start: the byte of the file where the data begins.
        room: how many bytes are there from it on.
    """

    values: Mapping[str, Value]
    entries: tuple[Entry, ...]
    alignment: int
    start: int
    room: int

    def text(self, key: str) -> str | None:
        """A value as text; None for a list, or where there is none."""
        return self.values[key].text if key in self.values else None


def read_header(path: Path, data: bytearray | mmap.mmap) -> Header:
    """Read the header of a file that begins with `MAGIC`.

    Raises:
        CheckpointError: if it is malformed or truncated.
    """
    cursor = _Cursor(path, data)
    cursor.take(len(MAGIC))
    version = cursor.number("I")
    if version not in (2, 3):
        raise CheckpointError(
            f"{path}: is a GGUF file of version {version}, expected 2 or 3 in little endian", hint="convert it again"
        )
    tensors, count = cursor.count(), cursor.count()
    values = {value.key: value for value in (cursor.value() for _ in range(count))}
    entries = tuple(_entry(cursor) for _ in range(tensors))
    if len(values) != count or len({entry.key for entry in entries}) != tensors:
        raise CheckpointError(f"{path}: has a key twice", hint=AGAIN)
    alignment = _alignment(path, values)
    start = aligned(cursor.position, alignment)
    return Header(values, entries, alignment, start, max(len(data) - start, 0))


def check_places(path: Path, header: Header, sizes: Sequence[int]) -> None:
    """Check that tensors lie one after the other, each at the next multiple of the alignment, and fill the file.

    Args:
        sizes: the bytes of each tensor.

    Raises:
        CheckpointError: naming the first that does not, or if the file is truncated or has more.
    """
    expected = end = 0
    for entry, size in zip(header.entries, sizes, strict=True):
        if entry.begin != expected:
            raise CheckpointError(
                f"{path}: tensor {entry.key} starts at byte {entry.begin}, expected {expected}", hint=AGAIN
            )
        end = entry.begin + size
        expected = aligned(end, header.alignment)
    if end > header.room or header.room > expected:
        what = "is truncated" if end > header.room else "has bytes after its tensors"
        raise CheckpointError(f"{path}: {what}: expected {end} data bytes, found {header.room}", hint=AGAIN)


def aligned(place: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-place // alignment) * alignment


class _Cursor:
    """Reads a file from its beginning, and remembers where it is."""

    def __init__(self, path: Path, data: bytearray | mmap.mmap) -> None:
        self.path, self.data, self.position = path, data, 0

    def take(self, size: int) -> bytes:
        """Raises: CheckpointError: if the file ends before."""
        begin = self.position
        self.skip(size)
        return bytes(self.data[begin : self.position])

    def skip(self, size: int) -> None:
        """Raises: CheckpointError: if the file ends before."""
        end = self.position + size
        if end > len(self.data):
            raise CheckpointError(f"{self.path}: is truncated inside its header", hint=AGAIN)
        self.position = end

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
            raise CheckpointError(f"{self.path}: has a name or text that is no UTF-8", hint=AGAIN) from error

    def value(self) -> Value:
        """Raises: CheckpointError: for a type that there is not, and lists of lists."""
        begin, key, kind = self.position, self.text(), int(self.number("I"))
        if kind == TEXT:
            text: str | None = self.text()
        elif kind == LIST:
            self._skip_list()
            text = None
        else:
            text = str(self.number(self._letter(kind)))
        return Value(key, kind, text, begin, self.position)

    def _skip_list(self) -> None:
        of, length = int(self.number("I")), self.count()
        if of != TEXT:
            self.skip(struct.calcsize(f"<{self._letter(of)}") * length)
            return
        for _ in range(length):
            self.skip(self.count())

    def _letter(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise CheckpointError(f"{self.path}: has a value of the unknown type {kind}", hint=AGAIN)
        return _NUMBERS[kind]


def _entry(cursor: _Cursor) -> Entry:
    key, dimensions = cursor.text(), int(cursor.number("I"))
    if not 1 <= dimensions <= _DIMENSIONS:
        raise CheckpointError(f"{cursor.path}: tensor {key} has {dimensions} dimensions", hint=AGAIN)
    shape = tuple(cursor.count() for _ in range(dimensions))[::-1]
    if not all(shape):
        raise CheckpointError(f"{cursor.path}: tensor {key} is empty: {list(shape)}", hint=AGAIN)
    return Entry(key, shape, int(cursor.number("I")), cursor.count())


def _alignment(path: Path, values: Mapping[str, Value]) -> int:
    told = values[_ALIGNMENT].text if _ALIGNMENT in values else "32"
    alignment = int(told) if told is not None and told.isdecimal() else 0
    if alignment < 8 or alignment & (alignment - 1) or alignment > 2**20:
        raise CheckpointError(f"{path}: {_ALIGNMENT} is {told}, expected a power of two from 8 on", hint=AGAIN)
    return alignment
