"""Amounts in words: sizes, shares, ratios and numbers, as people read them."""

from __future__ import annotations

import math

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_DIGITS = 17
"""So many tell every number apart."""


def size(count: int, most: float | None = None) -> str:
    """Bytes in binary units: `114.2 KiB`; below 1 KiB exactly.

    With `most`, which they do not exceed, so many digits that the rounded number does not exceed it either.
    """
    value, unit = float(count), 0
    while value >= 1023.95 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{count} B" if unit == 0 else f"{_within(value, '.{}f', 1, most and most / 1024**unit)} {_UNITS[unit]}"


def share(part: float, whole: float) -> str:
    """A part as per cent of the whole: `1.9 %`."""
    return f"{_short(100 * part / whole)} %" if whole else "0 %"


def ratio(before: float, after: float) -> str:
    """How many times smaller: `52x`."""
    return f"{_short(before / after)}x" if after else "-"


def number(value: float, most: float | None = None) -> str:
    """Three significant digits: `0.0998`, `12.3`, `1.2e-07`; more where `most`, as for `size`, asks for them."""
    return _within(value, ".{}g", 3, most)


def count(amount: int, noun: str) -> str:
    """`1 module`, `72 modules`."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def _short(value: float) -> str:
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, min(3, 1 - math.floor(math.log10(value))))
    return f"{value:.{digits}f}"


def _within(value: float, form: str, digits: int, most: float | None) -> str:
    """A number in the fewest digits, from `digits` on, that do not round it beyond what it is within."""
    said = [format(value, form.format(count)) for count in range(digits, _DIGITS)]
    if most is None or value > most:
        return said[0]
    return next((text for text in said if float(text) <= most), said[-1])
