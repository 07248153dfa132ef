"""Numbers of the head as bytes: LEB128, and decimals of few digits (formats/adz-1.md, section 1.3)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from decimal import Decimal

from adaptzip.errors import FormatError, UsageError

MOST = 2**63 - 1
"""Largest whole number."""
_BITS = 63
_LOWEST, _PLACES = -15, 31
"""The lowest power of ten of a decimal, and how many powers there are; the number after them says float64."""
_DIGITS = 2**42
"""Decimals are whole numbers below this, times a power of ten; other numbers are kept as float64."""


def leb128(numbers: Iterable[int]) -> bytes:
    """Whole numbers of at least 0, seven bits in a byte, the lowest first.

    Raises:
        UsageError: if one is negative, or above `MOST`.
    """
    result = bytearray()
    for number in numbers:
        if not 0 <= number <= MOST:
            raise UsageError(f"a file cannot hold the number {number}, expected one from 0 to {MOST}")
        while number >= 128:
            result.append(number & 127 | 128)
            number >>= 7
        result.append(number)
    return bytes(result)


def zigzag(number: int) -> int:
    """A signed number as one that is not: 0, -1, 1, -2, 2 become 0 to 4."""
    return 2 * number if number >= 0 else -2 * number - 1


def unzigzag(number: int) -> int:
    """Inverse of `zigzag`."""
    return -(number >> 1) - 1 if number & 1 else number >> 1


def decimal(value: float, spare: int = 0) -> bytes:
    """A number of at least 0 and below 2^63; `spare` codes are left below it for other meanings.

    Raises:
        UsageError: if it is another.
    """
    if not 0 <= value < 2.0**63:
        raise UsageError(f"a file cannot hold the number {value}, expected one from 0 to 2^63")
    digits, power = _parts(value)
    if digits >= _DIGITS or not 0 <= power - _LOWEST < _PLACES:
        return leb128([_PLACES + spare]) + struct.pack("<d", value)
    return leb128([32 * digits + power - _LOWEST + spare])


def _parts(value: float) -> tuple[int, int]:
    """The fewest digits that a float64 is told by, as a whole number, and the power of ten that it is times."""
    if not value:
        return 0, _LOWEST
    told = Decimal(repr(float(value))).normalize().as_tuple()
    digits = int("".join(map(str, told.digits)))
    power = int(told.exponent)
    beyond = max(0, power - (_LOWEST + _PLACES - 1))
    return digits * 10 ** min(beyond, 30), power - beyond


class Cursor:
    """Reads numbers out of bytes, one after another; it remembers its place.

    Args:
        data: what is read.
        what: names the data in error messages.
        place: where the first of them is.
    """

    def __init__(self, data: bytes, what: str, place: int = 0) -> None:
        self._data, self._what, self._place = data, what, place

    @property
    def left(self) -> int:
        """How many bytes were not read yet."""
        return len(self._data) - self._place

    @property
    def rest(self) -> bytes:
        """The bytes that were not read yet."""
        return self._data[self._place :]

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            FormatError: if fewer are left.
        """
        if count > self.left:
            raise FormatError(f"{self._what} is truncated")
        self._place += count
        return self._data[self._place - count : self._place]

    def whole(self, most: int = MOST) -> int:
        """A LEB128 number.

        Raises:
            FormatError: if it is cut off, longer than it need be, or above `most`.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift >= _BITS:
                raise FormatError(f"{self._what} holds a number that is too large")
        if shift and not byte:
            raise FormatError(f"{self._what} holds a number that is longer than it need be")
        if value > most:
            raise FormatError(f"{self._what} holds the number {value}, expected at most {most}")
        return value

    def wholes(self, count: int, most: int = MOST) -> tuple[int, ...]:
        """Several LEB128 numbers; no room is made before they were seen."""
        return tuple(self.whole(most) for _ in range(count))

    def single(self) -> float:
        """A float32 of at least 0 and below 2^63.

        Raises:
            FormatError: if it is another.
        """
        return self._checked(struct.unpack("<f", self.take(4))[0])

    def decimal(self) -> float:
        """Inverse of `decimal`; below 2^63.

        Raises:
            FormatError: if it is out of range.
        """
        return self._decimal(self.whole())

    def optional(self) -> float | None:
        """A decimal with one spare code, which says that there is none."""
        code = self.whole()
        return self._decimal(code - 1) if code else None

    def _decimal(self, code: int) -> float:
        digits, place = code >> 5, code & 31
        if digits >= _DIGITS or (place == _PLACES and digits):
            raise FormatError(f"{self._what} holds a malformed decimal")
        if place == _PLACES:
            return self._checked(struct.unpack("<d", self.take(8))[0])
        power = place + _LOWEST
        return self._checked(float(digits * 10**power) if power >= 0 else digits / 10**-power)

    def _checked(self, value: float) -> float:
        if not (math.isfinite(value) and 0 <= value < 2.0**63):
            raise FormatError(f"{self._what} holds the number {value}, expected one from 0 to 2^63")
        return value
