"""Writing a `.adz` file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from adaptzip.atomic import atomic_file
from adaptzip.compressed import Buffer, Compressed
from adaptzip.container.header import write_metadata
from adaptzip.container.streams import frame
from adaptzip.container.tables import Tables, write_tables
from adaptzip.digest import digest


def write(compressed: Compressed, path: str | Path, *, force: bool = False) -> int:
    """Write a file, all or nothing; equal input gives equal bytes.

    Returns:
        The size in bytes.

    Raises:
        OutputError: if `path` exists without `force` or cannot be written.
    """
    start, streams = _layout(compressed)
    with atomic_file(path, force) as handle:
        handle.write(start)
        for parts in streams.values():
            handle.writelines(parts)
    return _size(start, streams)


def size(compressed: Compressed) -> int:
    """Bytes that `write` would write."""
    return _size(*_layout(compressed))


def sizes(compressed: Compressed) -> dict[str, int]:
    """Bytes by part: "header", and each stream."""
    start, streams = _layout(compressed)
    return {"header": len(start)} | {name: sum(map(len, parts)) for name, parts in streams.items()}


def _size(start: bytes, streams: dict[str, Sequence[Buffer]]) -> int:
    return len(start) + sum(len(part) for parts in streams.values() for part in parts)


def _layout(compressed: Compressed) -> tuple[bytes, dict[str, Sequence[Buffer]]]:
    """The start of the file, and its streams in file order."""
    tables = Tables(
        _config_text(compressed),
        compressed.extras.entries,
        compressed.source_header or b"",
        tuple(map(len, compressed.chunks)),
    )
    streams: dict[str, Sequence[Buffer]] = {
        "tables": [write_tables(tables)],
        "modules": compressed.chunks,
    }
    if compressed.extras.entries:
        streams["extras"] = [compressed.extras.payload]
    content = digest(part for parts in streams.values() for part in parts)
    sizes = {name: sum(map(len, parts)) for name, parts in streams.items()}
    return frame(write_metadata(compressed, content), sizes), streams


def _config_text(compressed: Compressed) -> bytes:
    if compressed.source_config_text is not None:
        return compressed.source_config_text.encode()
    return json.dumps(dict(compressed.meta_config), separators=(",", ":"), ensure_ascii=False).encode()
