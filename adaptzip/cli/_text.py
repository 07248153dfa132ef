"""Plain text for people: aligned tables and fields, and names that can't steer a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adaptzip.core.words import count, number, ratio, share, size

__all__ = ["count", "fields", "number", "one_line", "printable", "ratio", "share", "size", "table"]


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
