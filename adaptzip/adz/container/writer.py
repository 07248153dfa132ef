"""Writing a `.adz` file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from adaptzip.adz.container.header import BLANK_HASH, parse_metadata, write_metadata
from adaptzip.adz.container.streams import frame
from adaptzip.adz.container.tables import Tables, read_tables, write_tables
from adaptzip.core.compressed import Buffer, Compressed
from adaptzip.files.atomic import atomic_file
from adaptzip.files.digest import digest

Streams = Mapping[str, Sequence[Buffer]]
"""The parts of each stream, by its name."""


def write(compressed: Compressed, path: str | Path, *, force: bool = False) -> int:
    """Write a file, all or nothing; equal input gives equal bytes.

    Returns:
        The size in bytes.

    Raises:
        OutputError: if `path` exists without `force` or cannot be written.
        FormatError: if no reader would take it, as its modules or extras have names that mean something else.
    """
    streams = _streams(compressed)
    parse_metadata(write_metadata(compressed, BLANK_HASH))
    read_tables(memoryview(streams["tables"][0]))
    blank = _start(compressed, streams, BLANK_HASH)
    content = digest([blank, *(part for parts in streams.values() for part in parts)])
    start = _start(compressed, streams, content)
    with atomic_file(path, force) as handle:
        handle.write(start)
        for parts in streams.values():
            handle.writelines(parts)
    return sum(_sizes(start, streams).values())


def size(compressed: Compressed) -> int:
    """Bytes that `write` would write."""
    return sum(sizes(compressed).values())


def sizes(compressed: Compressed) -> dict[str, int]:
    """Bytes by part: "header", and each stream."""
    streams = _streams(compressed)
    return _sizes(_start(compressed, streams, BLANK_HASH), streams)


def _sizes(start: bytes, streams: Streams) -> dict[str, int]:
    return {"header": len(start)} | {name: sum(map(len, parts)) for name, parts in streams.items()}


def _start(compressed: Compressed, streams: Streams, content: str) -> bytes:
    return frame(write_metadata(compressed, content), {n: sum(map(len, parts)) for n, parts in streams.items()})


def _streams(compressed: Compressed) -> Streams:
    """The streams in file order."""
    tables = Tables(
        _config_text(compressed),
        compressed.extras.entries,
        compressed.meta.header or b"",
        tuple(compressed.gains),
        tuple(compressed.basis_sizes),
        () if compressed.grouped else tuple(map(len, compressed.chunks)),
    )
    streams: dict[str, Sequence[Buffer]] = {"tables": [write_tables(tables)]}
    if compressed.shared:
        streams["shared"] = [compressed.shared]
    streams["modules"] = [compressed.grouped] if compressed.grouped else compressed.chunks
    if compressed.basis_sizes:
        streams["basis"] = [compressed.basis_payload]
    if compressed.extras.entries:
        streams["extras"] = [compressed.extras.payload]
    return streams


def _config_text(compressed: Compressed) -> bytes:
    if compressed.meta.config_text is not None:
        return compressed.meta.config_text.encode()
    return json.dumps(dict(compressed.meta.config), separators=(",", ":"), ensure_ascii=False).encode()
