"""Writing a `.adz` file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from adaptzip.adz.container.frame import frame
from adaptzip.adz.container.head import read_head, write_head
from adaptzip.adz.container.numbers import leb128
from adaptzip.adz.container.payload import HASH, PIECE, piece_hashes, sha
from adaptzip.adz.container.reader import FORMAT
from adaptzip.core.compressed import Buffer, Compressed
from adaptzip.files.atomic import atomic_file

Parts = Mapping[str, Sequence[Buffer]]
"""What the payload is made of, in its order."""


def write(compressed: Compressed, path: str | Path, *, force: bool = False) -> int:
    """Write a file, all or nothing; equal input gives equal bytes.

    Returns:
        The size in bytes.

    Raises:
        OutputError: if `path` exists without `force` or cannot be written.
        FormatError: if no reader would take it, as its modules or extras have names that mean something else.
        RefusedError: if its head would be longer than readers take.
        UsageError: if a hash in it is none.
    """
    pieces = _pieces(compressed)
    with atomic_file(path, force) as handle:
        handle.writelines(pieces)
    return sum(map(len, pieces))


def packed(compressed: Compressed) -> bytes:
    """What `write` would write.

    Raises:
        FormatError, RefusedError, UsageError: as `write`.
    """
    return b"".join(_pieces(compressed))


def size(compressed: Compressed) -> int:
    """Bytes that `write` would write."""
    return sum(sizes(compressed).values())


def sizes(compressed: Compressed) -> dict[str, int]:
    """Bytes by part: "header", which is all but blocks, and what there is of "shared", "modules", "basis", "extras"."""
    parts = {name: sum(map(len, several)) for name, several in _parts(compressed).items()}
    payload = sum(parts.values())
    head = len(write_head(compressed))
    inner = 1 + HASH + len(leb128([head])) + head + (HASH * -(-payload // PIECE) if payload > PIECE else 0)
    return {"header": len(frame(inner + payload)) + inner} | parts


def _pieces(compressed: Compressed) -> list[Buffer]:
    """A file's content, in order."""
    head, parts = write_head(compressed), _parts(compressed)
    read_head(head)
    payload = [part for several in parts.values() for part in several]
    size = sum(map(len, payload))
    hashes = piece_hashes(payload, size)
    rest = leb128([len(head)]) + head + hashes
    start = frame(1 + HASH + len(rest) + size) + bytes([FORMAT])
    found = sha(start, bytes(HASH), rest, *(() if hashes else payload))
    return [start, found, rest, *payload]


def _parts(compressed: Compressed) -> Parts:
    parts: dict[str, Sequence[Buffer]] = {}
    if compressed.shared:
        parts["shared"] = [compressed.shared]
    parts["modules"] = [compressed.grouped] if compressed.grouped else compressed.chunks
    if compressed.basis_sizes and compressed.basis_payload:
        parts["basis"] = [compressed.basis_payload]
    if compressed.extras.entries:
        parts["extras"] = [compressed.extras.payload]
    return parts
