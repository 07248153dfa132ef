"""Reading a `.adz` file, as if whoever made it meant harm: every number is checked before it is used."""

from __future__ import annotations

import base64
import io
import mmap
import os
import re
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO

from adaptzip.adz.container.frame import MAX_FRAME, frame_end
from adaptzip.adz.container.head import MAX_HEAD, Head, read_head
from adaptzip.adz.container.numbers import Cursor
from adaptzip.adz.container.payload import HASH, Blocks, OpenedExtras, Payload, pieces_of, sha
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed, PackedExtras
from adaptzip.core.limits import Limits, current, limited
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipError, FormatError, RefusedError, UsageError, naming
from adaptzip.files.regular import open_regular

FORMAT = 1
"""The version of the format, the first byte behind the safetensors header."""
_LONGEST_NUMBER = 9
_BITS = re.compile(r"[0-9]{1,2}")


@dataclass(frozen=True)
class Opened:
    """A file's head, checked, and its payload, of which nothing was decoded.

    Attributes:
        head: what is told of the blocks.
        hash: of the whole file, 22 characters.
        payload: the blocks, checked as they are read.
        header_bytes: size of all that is not payload.
    """

    head: Head
    hash: str
    payload: Payload
    header_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each part of the file: header, shared, modules, basis, extras."""
        head, modules = self.head, self.head.modules
        extras = len(self.payload) - head.shared - modules - head.basis
        return {
            "header": self.header_bytes,
            "shared": head.shared,
            "modules": modules,
            "basis": head.basis,
            "extras": extras,
        }


def read_header(path: str | Path) -> Opened:
    """Read and check a file's head; of a large payload nothing is read.

    Raises:
        FormatError: if it is no `.adz` file, or its head is malformed or damaged.
        RefusedError: if it needs a newer adaptzip.
    """
    path = Path(path)
    with naming(path, AdaptzipError):
        return _opened(_map(path))


@public
def open_adz(source: str | Path | bytes | BinaryIO, *, limits: Limits | None = None) -> Compressed:
    """Open a file: its head is read and checked, and each block when it is used; no module is decoded.

    Args:
        source: the file's path, its content, or an object that is open for reading bytes, of which all that is left is
            read.
        limits: what the file may make of itself; None for the usual ones (`adaptzip.Limits`).

    Raises:
        FormatError: if it is damaged.
        RefusedError: if it needs a newer adaptzip, or goes beyond its limits.

    Example:
        >>> made = adaptzip.compress("my-adapter", "small.adz", budget="20%")
        >>> opened = adaptzip.open("small.adz")
        >>> opened.modules == made.modules, opened.provenance == made.provenance
        (True, True)
        >>> adaptzip.open(opened.to_bytes()).modules == made.modules
        True
    """
    if isinstance(source, str | os.PathLike):
        opened = read_header(source)
        with naming(source, AdaptzipError):
            return replace(_compressed(opened), path=Path(source))
    name, content = _read(source)
    with naming(name, AdaptzipError):
        return _compressed(_opened(content))


def open_again(content: bytes) -> Compressed:
    """Open what was open before, whatever the limits."""
    with limited(Limits.none()):
        return open_adz(content)


def _read(source: bytes | BinaryIO) -> tuple[str, bytes]:
    """What to call a file that is no path, and its content."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "the bytes", bytes(source)
    if not hasattr(source, "read"):
        raise UsageError(
            f"a {type(source).__name__} can't be opened", hint="give a path, bytes, or a file that is open for reading"
        )
    name = getattr(source, "name", None)
    if isinstance(source, io.TextIOBase):
        raise UsageError("the file is open for reading text", hint='open it with "rb"')
    try:
        content = source.read()
    except (OSError, ValueError) as error:
        raise UsageError(f"the file can't be read: {error}", hint='open it with "rb"') from error
    if not isinstance(content, bytes):
        raise UsageError("the file is open for reading text", hint='open it with "rb"')
    return name if isinstance(name, str) else "the file", content


def _opened(mapped: mmap.mmap | bytes) -> Opened:
    if not mapped:
        raise FormatError("the file is empty")
    size = len(mapped)
    start = frame_end(mapped[: 8 + MAX_FRAME], size)
    begin = Cursor(mapped[start : start + 1 + HASH + _LONGEST_NUMBER], "the file")
    version, found = begin.take(1)[0], begin.take(HASH)
    if version != FORMAT:
        raise RefusedError(f"format version {version} is not {FORMAT}", hint="install a newer adaptzip")
    length = begin.whole(MAX_HEAD)
    first = start + min(1 + HASH + _LONGEST_NUMBER, size - start) - begin.left
    if length > size - first:
        raise FormatError(f"the head is {length} bytes long, of which the file holds {size - first}")
    count = pieces_of(size - first - length)
    end = first + length + count * HASH
    payload = b"" if count else mapped[end:]
    if sha(mapped[: start + 1], bytes(HASH), mapped[start + 1 + HASH : end], payload) != found:
        raise FormatError("the file is damaged: its hash does not match", hint="fetch it again")
    head = read_head(mapped[first : first + length], current().room(size))
    hashes = mapped[end - count * HASH : end]
    lazy = Payload(mapped, end, hashes) if count else Payload(memoryview(payload), 0, b"")
    opened = Opened(head, base64.urlsafe_b64encode(found).decode().rstrip("="), lazy, end)
    _check_parts(opened)
    return opened


def _check_parts(opened: Opened) -> None:
    head, parts = opened.head, opened.parts
    metadata, modules = head.metadata, parts["modules"]
    told = head.shared + modules + head.basis
    if parts["extras"] < 0:
        raise FormatError(f"the head tells of {told} bytes of blocks, the file holds {len(opened.payload)}")
    if bool(metadata.extras) != (parts["extras"] > 0):
        raise FormatError(f"{parts['extras']} bytes follow the blocks, and {len(metadata.extras)} extras are listed")
    embedded = metadata.basis is not None and metadata.basis.source == "embedded"
    if embedded != (head.basis > 0):
        raise FormatError("an embedded basis is missing, or one is there that the metadata does not name")
    if metadata.basis is not None and metadata.basis.source == "bank" and head.shared:
        raise FormatError("a bank is named, and another one is in the file")
    begun = metadata.basis is None or metadata.basis.source == "start"
    if metadata.config.get("lossless", False) and (head.gains or head.shared or not begun):
        raise FormatError("a lossless file has gains, shared tensors, or a basis that is no start")
    if metadata.config.get("lossless", False) and head.grouped:
        raise FormatError("a lossless file has its modules in one bit string")


def _check_room(opened: Opened) -> None:
    """Refuse, before anything is decoded, a file that would make more of itself than there is room for.

    Ranks are told within the blocks: of each module that has one the largest counts, of any other 1.
    """
    head, size = opened.head, sum(opened.parts.values())
    room, sites = current().room(size), head.metadata.sites.values()
    lengths = head.lengths or (head.grouped,) * len(sites)
    ranks = (head.max_rank if length else 1 for length in lengths)
    room.check("numbers", sum(rank * (site.out + site.width) for rank, site in zip(ranks, sites, strict=True)))
    room.check("extra_bytes", sum(prod(entry.shape) * _bytes_of(entry.dtype) for entry in head.metadata.extras))


def _bytes_of(dtype: str) -> int:
    """Bytes of a number of a dtype, by the bits in its name; decoding refuses one that is unknown."""
    bits = _BITS.search(dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


def _compressed(opened: Opened) -> Compressed:
    _check_room(opened)
    head, payload = opened.head, opened.payload
    metadata, modules = head.metadata, head.modules
    lossless = bool(metadata.config.get("lossless", False))
    behind = head.shared + modules
    end = behind + head.basis
    named = head.config.get("base_model_name_or_path")
    return Compressed(
        method=metadata.method,
        method_version=metadata.method_version,
        config=metadata.config,
        sites=metadata.sites,
        max_rank=head.max_rank,
        chunks=() if head.grouped else Blocks(payload, head.shared, head.lengths),
        grouped=payload.read(head.shared, behind) if head.grouped else b"",
        step=head.step,
        provenance=head.provenance,
        extras=OpenedExtras(metadata.extras, payload, end) if metadata.extras else PackedExtras(),
        meta=Meta(
            dialect=metadata.dialect,
            config=head.config,
            base_model=metadata.base_model or (named if isinstance(named, str) else None),
            header=head.source_header or None,
            config_text=head.config_text if lossless else None,
        ),
        dtype=metadata.dtype,
        shared=payload.read(0, head.shared),
        gains=head.gains,
        basis=metadata.basis,
        basis_sizes=head.basis_sizes,
        basis_payload=payload.read(behind, end),
        renamed=metadata.renamed,
    )


def _map(path: Path) -> mmap.mmap:
    try:
        with open_regular(path) as handle:
            if path.stat().st_size == 0:
                raise FormatError("the file is empty")
            return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise FormatError("no such file", hint="check its name") from error
    except IsADirectoryError as error:
        raise FormatError(
            "is a folder, expected a .adz file", hint="compress the adapter in it first: `adaptzip compress FOLDER`"
        ) from error
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}") from error
