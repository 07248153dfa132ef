"""The head: everything that is told of the blocks, before them (formats/adz-1.md, section 2)."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adaptzip.adz.container.adapter_config import config_text, parse_config, write_config
from adaptzip.adz.container.deflate import deflate, inflate
from adaptzip.adz.container.frames import (
    check_sizes,
    check_start,
    read_offsets,
    read_sizes,
    write_offsets,
)
from adaptzip.adz.container.index import read_index, write_index
from adaptzip.adz.container.metadata import Metadata, parse_metadata, write_metadata
from adaptzip.adz.container.numbers import Cursor, decimal, leb128
from adaptzip.adz.container.training import read_report, write_report
from adaptzip.core.basis import BasisReference
from adaptzip.core.compressed import Compressed, Provenance
from adaptzip.core.limits import WHOLE, Room
from adaptzip.errors import FormatError, RefusedError, UsageError

MAX_HEAD = 2**24
"""Longest head that a reader reads and a writer writes."""
MAX_RANK = 2**20
_MAX_TEXT = 2**24
"""Longest metadata, and configuration kept as text."""
_MOST_SIZE = 2**42 - 1
_SOURCE, _REPORT, _GAINS, _SIZES, _CONFIG, _HEADER, _SHARED, _BASIS = (1 << bit for bit in range(8))
"""What a head has besides what all have."""
_HASH = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")
_HASH_BYTES = 16


@dataclass(frozen=True)
class Head:
    """What a head says.

    Attributes:
        metadata: its texts; the basis has its offsets.
        max_rank, step: largest rank of a module, and the quantiser step.
        provenance: where the file comes from.
        gains: gain index of each module, or nothing where all are 0.
        basis_sizes: directions of each module's basis or frame, or nothing.
        config: the source's configuration, and `config_text`, its own text, where that is kept.
        source_header: the source's safetensors header in a lossless file, else b"".
        lengths: bytes of each module's block, in the order of the sorted names; () where all are in one bit string.
        grouped: bytes of that bit string, else 0.
        shared, basis: bytes of the shared block, and of an embedded basis.
    """

    metadata: Metadata
    max_rank: int
    step: float
    provenance: Provenance
    gains: tuple[int, ...]
    basis_sizes: tuple[int, ...]
    config: Mapping[str, Any]
    config_text: str | None
    source_header: bytes
    lengths: tuple[int, ...]
    grouped: int
    shared: int
    basis: int

    @property
    def modules(self) -> int:
        """Bytes of all modules."""
        return self.grouped or sum(self.lengths)


def write_head(compressed: Compressed) -> bytes:
    """Numbers as they are, texts and tables deflated, and the index.

    Raises:
        RefusedError: if it, or a text in it, is longer than a reader takes.
        UsageError: if a hash is none, or a start has another number of offsets than frames.
    """
    check_start(compressed.basis, compressed.basis_sizes)
    made, basis = compressed.provenance, compressed.basis
    text, header = _kept_text(compressed), compressed.meta.header or b""
    options = {
        _SOURCE: made.source_hash,
        _REPORT: made.distilled,
        _GAINS: compressed.gains,
        _SIZES: compressed.basis_sizes,
        _CONFIG: text,
        _HEADER: header,
        _SHARED: compressed.shared,
        _BASIS: basis.hash if basis is not None else "",
    }
    flags = sum(flag for flag, item in options.items() if item)
    sizes = {_SIZES: compressed.basis_payload, _CONFIG: text, _HEADER: header, _SHARED: compressed.shared}
    numbers = (
        leb128([flags]),
        struct.pack("<f", np.float32(compressed.step)),
        decimal(made.relative_error),
        leb128((made.parameters, compressed.max_rank, made.seed, made.source_bytes)),
        _hash_bytes(made.source_hash) if made.source_hash else b"",
        _hash_bytes(basis.hash) if basis is not None and basis.hash else b"",
        write_report(made.distilled) if made.distilled is not None else b"",
        leb128(len(item) for flag, item in sizes.items() if flags & flag),
    )
    index = write_index(compressed.sites, compressed.lengths, len(compressed.grouped))
    head = b"".join(numbers) + deflate(_texts(compressed, text, header)) + index
    if len(head) > MAX_HEAD:
        raise RefusedError(f"the adapter's module names and tables take {len(head)} bytes, more than {MAX_HEAD}")
    return head


def _kept_text(compressed: Compressed) -> bytes:
    """The configuration, where it is kept as text."""
    meta = compressed.meta
    if meta.config_text is not None:
        return meta.config_text.encode()
    return b"" if not meta.config or write_config(meta.config) is not None else config_text(meta.config)


def _texts(compressed: Compressed, config: bytes, header: bytes) -> bytes:
    """What is deflated: the metadata, a line feed, and the tables."""
    metadata = write_metadata(compressed).encode()
    if max(len(metadata), len(config)) > _MAX_TEXT:
        raise RefusedError(
            f"the adapter's configuration and metadata have {max(len(metadata), len(config)):,} bytes, more than "
            f"{_MAX_TEXT:,}",
            hint="take out of its file's metadata what is not needed",
        )
    start = None if compressed.basis is None else compressed.basis.start
    tables = (
        struct.pack(f"{len(compressed.gains)}b", *compressed.gains),
        leb128(compressed.basis_sizes),
        b"" if start is None else write_offsets(start.offsets),
        config,
        header,
    )
    return metadata + (b"\n" + b"".join(tables) if any(tables) else b"")


def read_head(data: bytes, room: Room = WHOLE) -> Head:
    """Inverse of `write_head`.

    Args:
        room: what the file may hold.

    Raises:
        FormatError: if it is damaged or malformed.
        RefusedError: if it needs something that this version does not have, or holds more than there is room for.
    """
    cursor = Cursor(data, "the head")
    flags = cursor.whole()
    if flags >> 8:
        raise RefusedError(
            f"the head has parts that this version does not know: {flags:#x}", hint="install a newer adaptzip"
        )
    step, error = cursor.single(), cursor.decimal()
    parameters, max_rank, seed, source = cursor.whole(), cursor.whole(MAX_RANK), cursor.whole(), cursor.whole()
    source_hash = _hash_text(cursor.take(_HASH_BYTES)) if flags & _SOURCE else None
    basis_hash = _hash_text(cursor.take(_HASH_BYTES)) if flags & _BASIS else ""
    report = read_report(cursor) if flags & _REPORT else None
    sizes = {flag: cursor.whole(_MOST_SIZE) if flags & flag else 0 for flag in (_SIZES, _CONFIG, _HEADER, _SHARED)}
    if sizes[_CONFIG] > _MAX_TEXT:
        raise FormatError(f"the configuration has {sizes[_CONFIG]} bytes, more than {_MAX_TEXT}")
    texts, index = inflate(cursor.rest)
    end = texts.find(b"\n") if b"\n" in texts else len(texts)
    if end > _MAX_TEXT:
        raise FormatError(f"the metadata has {end} bytes, more than {_MAX_TEXT}")
    metadata = parse_metadata(texts[:end], basis_hash, room)
    rows = Cursor(texts, "the head's table", min(end + 1, len(texts)))
    gains = rows.take(len(metadata.sites)) if flags & _GAINS else b""
    basis_sizes = read_sizes(rows, metadata.sites) if flags & _SIZES else ()
    check_sizes(metadata.basis, bool(flags & _SIZES))
    metadata = replace(metadata, basis=_with_offsets(metadata.basis, rows, basis_sizes))
    lengths, grouped = read_index(index, metadata.sites)
    config = rows.take(sizes[_CONFIG])
    header = rows.take(sizes[_HEADER])
    if rows.left:
        raise FormatError("the head's table is longer than what it holds")
    if flags & _CONFIG and metadata.adapter:
        raise FormatError("the source's configuration is there twice")
    return Head(
        metadata=metadata,
        max_rank=max_rank,
        step=step,
        provenance=Provenance(metadata.made_by, source, source_hash, error, parameters, seed, report),
        gains=struct.unpack(f"{len(gains)}b", gains),
        basis_sizes=basis_sizes,
        config=parse_config(config) if flags & _CONFIG else metadata.adapter,
        config_text=config.decode() if flags & _CONFIG else None,
        source_header=header,
        lengths=lengths,
        grouped=grouped,
        shared=sizes[_SHARED],
        basis=sizes[_SIZES],
    )


def _with_offsets(basis: BasisReference | None, rows: Cursor, sizes: tuple[int, ...]) -> BasisReference | None:
    if basis is None or basis.start is None:
        return basis
    offsets = read_offsets(rows, sum(size > 0 for size in sizes))
    return replace(basis, start=replace(basis.start, offsets=offsets))


def _hash_bytes(text: str) -> bytes:
    if not _HASH.fullmatch(text):
        raise UsageError(f"{text[:100]!r} is not a hash of 22 characters of base64url")
    return base64.urlsafe_b64decode(text + "==")


def _hash_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
