"""Plain text for people: sizes, shares, aligned tables; nothing here knows what it shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), indent: str = "  ") -> str:
    """Rows in columns: the first aligned left, the others right."""
    lines = [list(head), *map(list, rows)] if head else [list(row) for row in rows]
    if not lines:
        return ""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        (indent + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])).rstrip() for row in lines
    )


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one pair a line, with the values aligned; pairs without a value are left out."""
    kept = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in kept)


def printable(text: str) -> str:
    """The text with control characters escaped, so that a name in a file cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`printable` text on one line."""
    return printable(" ".join(text.split("\n")))


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
