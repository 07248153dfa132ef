"""Where directions are found that modules are coded between: a basis or a frame (formats/adz-1.md, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from adaptzip.adz.container.numbers import Cursor, leb128, unzigzag, zigzag
from adaptzip.core.basis import BasisReference, BasisSource, Start
from adaptzip.core.compressed import Site
from adaptzip.errors import FormatError, UsageError

MAX_SIZE = 2**20
"""Most directions of a module."""
MOST_OFFSET = 2**42 - 1
_MOST_SEED = 2**64 - 1
_HUNDRED = 100
_SOURCES = ("base", "file", "embedded", "start", "reference", "bank")
_HASHED = ("base", "file", "reference", "bank")
"""Sources that are known by their hash."""
_SIZED = ("embedded", "start", "reference")
"""Sources of which a file tells how many directions each module has."""


def write_basis(basis: BasisReference | None) -> list[Any] | None:
    """`[source, size, description, start]`; the last two are left out where there is nothing to say."""
    if basis is None:
        return None
    item: list[Any] = [basis.source, basis.size, basis.description]
    if basis.start is not None:
        start = basis.start
        return [*item, [start.generator, start.seed, round(_HUNDRED * start.correlation)]]
    return item if basis.description else item[:2]


def read_basis(item: Any, found: str) -> BasisReference | None:
    """Inverse of `write_basis`, but for a start's offsets.

    Args:
        found: the hash that the head has of it, or "".

    Raises:
        FormatError: if it is malformed.
    """
    match item:
        case None:
            if not found:
                return None
        case [str(source), size, *rest] if source in _SOURCES and type(size) is int and 0 < size <= MAX_SIZE:
            named = BasisReference(cast("BasisSource", source), size, found, *_described(item, rest))
            if (named.start is not None) == (source == "start") and (found or source not in _HASHED):
                return named
    raise FormatError(f"metadata: 'basis' is malformed or lacks its hash: {repr(item)[:100]}")


def _described(item: Any, rest: Sequence[Any]) -> tuple[str, Start | None]:
    match rest:
        case []:
            return "", None
        case [str(description)]:
            return description, None
        case [str(description), [str(generator), seed, hundredths]]:
            whole = type(seed) is int and type(hundredths) is int
            if whole and 0 <= seed <= _MOST_SEED and 0 <= hundredths <= _HUNDRED:
                return description, Start(generator, seed, (), hundredths / _HUNDRED)
    raise FormatError(f"metadata: 'basis' is malformed: {repr(item)[:100]}")


def write_offsets(offsets: Sequence[int]) -> bytes:
    """Each as the difference from the one before: those of modules alike repeat."""
    befores = (0, *offsets[:-1])
    return leb128(zigzag(offset - before) for offset, before in zip(offsets, befores, strict=False))


def read_offsets(cursor: Cursor, count: int) -> tuple[int, ...]:
    """Inverse of `write_offsets`.

    Raises:
        FormatError: if one is negative or above `MOST_OFFSET`, or some are missing.
    """
    offsets, offset = [], 0
    for _ in range(count):
        offset += unzigzag(cursor.whole())
        if not 0 <= offset <= MOST_OFFSET:
            raise FormatError(f"the offset {offset} of a module's start is not within 0 to {MOST_OFFSET}")
        offsets.append(offset)
    return tuple(offsets)


def read_sizes(cursor: Cursor, sites: Mapping[str, Site]) -> tuple[int, ...]:
    """Directions of each module.

    Raises:
        FormatError: if a module cannot have as many, or some are missing.
    """
    sizes = cursor.wholes(len(sites), MAX_SIZE)
    for size, (name, site) in zip(sizes, sites.items(), strict=True):
        if size > max(site.out, site.width):
            raise FormatError(f"module {name!r}, {site.out} x {site.width}, cannot have a basis of {size} directions")
    return sizes


def check_sizes(basis: BasisReference | None, sized: bool) -> None:
    """Raises: FormatError: if sizes are missing, or have nothing to belong to."""
    wanted = basis is not None and basis.source in _SIZED
    unwanted = basis is None or basis.source == "bank"
    if unwanted and sized or wanted and not sized:
        raise FormatError("the sizes of the basis and what the metadata says of it do not belong together")


def check_start(basis: BasisReference | None, sizes: Sequence[int]) -> None:
    """Raises: UsageError: if a start has not one offset for each module with directions, or one beyond the limits."""
    if basis is None or basis.start is None:
        return
    start, framed = basis.start, sum(size > 0 for size in sizes)
    if len(start.offsets) != framed:
        raise UsageError(f"the start has {len(start.offsets)} offsets, expected {framed}: one for each frame")
    if any(not 0 <= offset <= MOST_OFFSET for offset in start.offsets) or not 0 <= start.seed <= _MOST_SEED:
        raise UsageError(f"the start's seed or an offset is out of range: seed {start.seed}")
    if not 0 <= start.correlation <= 1:
        raise UsageError(f"the start's correlation is {start.correlation}, expected 0 to 1")
