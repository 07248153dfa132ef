"""The "tables" stream: the source's configuration, the table of extras and the index, deflated together."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from adaptzip.adz.container.deflate import deflate, inflate
from adaptzip.adz.container.streams import read_lengths, write_lengths
from adaptzip.core.compressed import ExtraEntry
from adaptzip.errors import FormatError, RefusedError
from adaptzip.files import strict_json

_SECTIONS = 5
_MAX_DIMENSIONS = 16
_MAX_SIZE = 2**40
"""Bound of a shape's numbers, and of their product with zeros left out."""
_MAX_JSON = 16 * 2**20
_FACTOR = re.compile(r"(^|\.)lora_|\.vblora_|lora_latent_mapping")
"""What in a tensor's key says that it is part of a module's factors."""


@dataclass(frozen=True)
class Tables:
    """What the stream holds.

    Attributes:
        config: the source's configuration, JSON text.
        extras: the packed extras, in the order of their payload.
        source_header: the source's safetensors header in a lossless file, else b"".
        gains: gain index of each module, or nothing where all are 0.
        basis_sizes: directions of each module's embedded basis, or nothing where there is none.
        lengths: bytes of each module's block, in the order of the sorted names.
    """

    config: bytes
    extras: tuple[ExtraEntry, ...]
    source_header: bytes
    gains: tuple[int, ...]
    basis_sizes: tuple[int, ...]
    lengths: tuple[int, ...]


def write_tables(tables: Tables) -> bytes:
    """The sections' lengths as LEB128, the sections, and the index in what remains; all deflated.

    Raises:
        RefusedError: if the configuration, which has a source's metadata, is larger than a file may hold.
    """
    if len(tables.config) > _MAX_JSON:
        raise RefusedError(
            f"the adapter's configuration and metadata have {len(tables.config):,} bytes, more than {_MAX_JSON:,}",
            hint="take out of its file's metadata what is not needed",
        )
    sections = (
        tables.config,
        _write_extras(tables.extras),
        tables.source_header,
        struct.pack(f"{len(tables.gains)}b", *tables.gains),
        write_lengths(tables.basis_sizes),
    )
    head = write_lengths(map(len, sections))
    return deflate(bytes([len(head)]) + head + b"".join(sections) + write_lengths(tables.lengths))


def read_tables(stream: memoryview) -> Tables:
    """Inverse of `write_tables`.

    Raises:
        FormatError: if the stream is damaged.
    """
    data = inflate(stream)
    if not data or len(data) <= data[0]:
        raise FormatError("the tables are truncated")
    position = 1 + data[0]
    sizes = read_lengths(data[1:position])
    if len(sizes) != _SECTIONS or position + sum(sizes) > len(data):
        raise FormatError("the tables are truncated")
    if max(sizes[:2]) > _MAX_JSON:
        raise FormatError(f"the tables hold a JSON text of more than {_MAX_JSON} bytes")
    sections = []
    for size in sizes:
        sections.append(data[position : position + size])
        position += size
    return Tables(
        sections[0],
        _read_extras(sections[1]),
        sections[2],
        struct.unpack(f"{len(sections[3])}b", sections[3]),
        tuple(read_lengths(sections[4])),
        tuple(read_lengths(data[position:])),
    )


def parse_config(text: bytes) -> dict[str, Any]:
    """The configuration as a table.

    It is another program's text, so that NaN and repeated keys, which Python reads and writes, are let through.

    Raises:
        FormatError: if it is not the UTF-8 text of a JSON object.
    """
    try:
        value = json.loads(text.decode() or "{}")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the source's configuration is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError("the source's configuration is not a JSON object")
    return value


def _write_extras(entries: Sequence[ExtraEntry]) -> bytes:
    if not entries:
        return b""
    table = [[e.role, e.name, e.dtype, list(e.shape), e.stored] for e in entries]
    return json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()


def _read_extras(text: bytes) -> tuple[ExtraEntry, ...]:
    table = strict_json.parse(text or b"[]", "the table of extras")
    if not isinstance(table, list):
        raise FormatError("the table of extras is not a list")
    entries = tuple(map(_entry, table))
    if len({(entry.role, entry.name) for entry in entries}) < len(entries):
        raise FormatError("the table of extras repeats a name")
    for entry in entries:
        if entry.role == "extra" and _FACTOR.search(entry.name):
            raise FormatError(f"extra {repr(entry.name)[:100]} is named as a part of a module's factors")
    return entries


def _entry(item: Any) -> ExtraEntry:
    match item:
        case [str(role), str(name), str(dtype), [*shape], str(stored)]:
            if _possible(shape):
                return ExtraEntry(role, name, dtype, tuple(shape), stored)
    raise FormatError(f"the table of extras has a malformed entry: {repr(item)[:100]}")


def _possible(shape: Sequence[Any]) -> bool:
    whole = all(type(n) is int and n >= 0 for n in shape)
    return len(shape) <= _MAX_DIMENSIONS and whole and prod(n for n in shape if n) < _MAX_SIZE
