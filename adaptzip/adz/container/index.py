"""The index: the length of each module's block, as a bit string (formats/adz-1.md, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptzip.adz.container.numbers import Cursor, leb128, unzigzag, zigzag
from adaptzip.core.compressed import Site
from adaptzip.errors import FormatError

MOST_LENGTH = 2**42 - 1
"""Longest block."""
_ZEROS = 64
"""In the first byte: every module has a bit that says whether it has a block."""
_GROUPED = 128
"""The first byte where all modules are in one bit string."""
MOST_GROUPED = 2**16
"""Most bytes of that string."""
_ORDERS = 43


def write_index(sites: Mapping[str, Site], lengths: Sequence[int], grouped: int = 0) -> bytes:
    """Lengths of the modules' blocks, each told by its difference from what is expected of its shape.

    Args:
        grouped: bytes of the one bit string that all modules are in, in place of blocks.
    """
    if grouped:
        return bytes([_GROUPED]) + leb128([grouped])
    if not lengths:
        return b""
    empty = 0 in lengths
    differences = _differences(sites, lengths)
    values = np.array([zigzag(d) for d in differences if d is not None], dtype=np.int64)
    orders = range(min(_ORDERS, int(values.max(initial=0)).bit_length() + 1))
    order = min(orders, key=lambda k: _bits(values, k))
    parts = []
    for difference in differences:
        if empty:
            parts.append("0" if difference is None else "1")
        if difference is not None:
            parts.append(_code(zigzag(difference), order))
    bits = "".join(parts)
    size = -(-len(bits) // 8)
    return bytes([order | _ZEROS * empty]) + int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


def read_index(data: bytes, sites: Mapping[str, Site]) -> tuple[tuple[int, ...], int]:
    """Inverse of `write_index`: the lengths, and the bytes of one bit string in their place.

    Raises:
        FormatError: if `data` is not the lengths of these modules, none above `MOST_LENGTH`, and nothing else.
    """
    if not sites:
        if data:
            raise FormatError("there is an index, and no module")
        return (), 0
    if data[:1] == bytes([_GROUPED]):
        cursor = Cursor(data, "the index", 1)
        grouped = cursor.whole(MOST_GROUPED)
        if not grouped or cursor.left:
            raise FormatError("the index is not of one bit string")
        return (), grouped
    if not data or data[0] & ~_ZEROS >= _ORDERS:
        raise FormatError("the index is missing or of an unknown order")
    if len(data) > 12 * len(sites) + 1:
        raise FormatError(f"the index has {len(data)} bytes, more than {len(sites)} modules can need")
    order, empty = data[0] & ~_ZEROS, bool(data[0] & _ZEROS)
    bits = bin(int.from_bytes(b"\1" + data[1:], "big"))[3:]
    lengths, place = [], 0
    expected = _Expected()
    for site in sites.values():
        if empty:
            place += 1
            if bits[place - 1 : place] == "0":
                lengths.append(0)
                continue
        value, place = _read(bits, place, order)
        length = expected.of(site) + unzigzag(value)
        if not 0 < length <= MOST_LENGTH:
            raise FormatError(f"the index holds the length {length}, expected 1 to {MOST_LENGTH}")
        expected.learn(site, length)
        lengths.append(length)
    if len(bits) - place >= 8 or "1" in bits[place:]:
        raise FormatError("the index is longer than its modules need")
    return tuple(lengths), 0


class _Expected:
    """What length a shape's next block is expected to have; it remembers those before."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[int, int], int] = {}
        self._last = 0

    def of(self, site: Site) -> int:
        return self._shapes.get((site.out, site.width), self._last)

    def learn(self, site: Site, length: int) -> None:
        shape = site.out, site.width
        before = self._shapes.get(shape)
        self._shapes[shape] = length if before is None else (before + length + 1) >> 1
        self._last = length


def _differences(sites: Mapping[str, Site], lengths: Sequence[int]) -> list[int | None]:
    """How far each length is from what is expected; None for an empty block."""
    expected, found = _Expected(), list[int | None]()
    for site, length in zip(sites.values(), lengths, strict=True):
        found.append(length - expected.of(site) if length else None)
        if length:
            expected.learn(site, length)
    return found


def _bits(values: NDArray[np.int64], order: int) -> int:
    """Bits of all values as exponential Golomb codes."""
    # frexp is exact where log2 is not: every machine takes the same order.
    return int((2 * np.frexp(((values >> order) + 1).astype(np.float64))[1].astype(np.int64) - 1 + order).sum())


def _code(value: int, order: int) -> str:
    high = f"{(value >> order) + 1:b}"
    return "0" * (len(high) - 1) + high + (f"{value & (1 << order) - 1:0{order}b}" if order else "")


def _read(bits: str, place: int, order: int) -> tuple[int, int]:
    """A value, and the place behind it."""
    first = bits.find("1", place)
    end = 2 * first - place + 1 + order
    if first < 0 or first - place > _ORDERS or end > len(bits):
        raise FormatError("the index ends within a number, or holds one that is too large")
    high = int(bits[first : end - order], 2) - 1
    return high << order | int(bits[end - order : end] or "0", 2), end
