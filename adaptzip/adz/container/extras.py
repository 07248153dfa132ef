"""The table of extras: what each packed tensor is (formats/adz-1.md, section 2.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any

from adaptzip.core.compressed import ExtraEntry
from adaptzip.core.limits import WHOLE, Room
from adaptzip.errors import FormatError

_MAX_DIMENSIONS = 16
_MAX_SIZE = 2**40
"""Bound of a shape's numbers, and of their product with zeros left out."""
_DTYPE, _ROLE = "F32", "extra"
_FACTOR = re.compile(r"(^|\.)lora_|\.vblora_|lora_latent_mapping")
"""What in a tensor's key says that it is part of a module's factors."""


def write_extras(entries: Sequence[ExtraEntry]) -> list[list[Any]]:
    """`[name, shape, dtype, stored, role]` of each; what has its default is left out at the end."""
    table = []
    for entry in entries:
        rest = [(entry.dtype, _DTYPE), (entry.stored, entry.dtype), (entry.role, _ROLE)]
        while rest and rest[-1][0] == rest[-1][1]:
            rest.pop()
        table.append([entry.name, list(entry.shape), *(item for item, _ in rest)])
    return table


def read_extras(table: Sequence[Any], room: Room = WHOLE) -> tuple[ExtraEntry, ...]:
    """Inverse of `write_extras`.

    Raises:
        FormatError: if an entry is malformed, comes twice, or is named as a part of a factor.
        RefusedError: if there are more than there is room for.
    """
    room.check("extras", len(table))
    entries = tuple(map(_entry, table))
    if len({(entry.role, entry.name) for entry in entries}) < len(entries):
        raise FormatError("the table of extras repeats a name")
    for entry in entries:
        if entry.role == _ROLE and _FACTOR.search(entry.name):
            raise FormatError(f"extra {repr(entry.name)[:100]} is named as a part of a module's factors")
    return entries


def _entry(item: Any) -> ExtraEntry:
    match item:
        case [str(name), [*shape], *rest] if len(rest) <= 3 and all(isinstance(text, str) for text in rest):
            dtype = rest[0] if rest else _DTYPE
            stored = rest[1] if len(rest) > 1 else dtype
            role = rest[2] if len(rest) > 2 else _ROLE
            if _possible(shape):
                return ExtraEntry(role, name, dtype, tuple(shape), stored)
    raise FormatError(f"the table of extras has a malformed entry: {repr(item)[:100]}")


def _possible(shape: Sequence[Any]) -> bool:
    whole = all(type(n) is int and n >= 0 for n in shape)
    return len(shape) <= _MAX_DIMENSIONS and whole and prod(n for n in shape if n) < _MAX_SIZE
