"""Text for people: aligned tables and fields, and names that can't steer a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from adaptzip.cli._drawing import PAGE, fields_drawn, rows_drawn
from adaptzip.core.words import count, number, ratio, share, size

__all__ = ["count", "fields", "number", "one_line", "printable", "ratio", "share", "size", "table", "within_a_screen"]

_SCREEN, _TAIL = 1500, 300
"""Characters of a message, and of what is left of its end."""


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), left: Collection[int] = (0,)) -> str:
    """Rows in columns: those of `left` aligned left, the others right. On a terminal it is drawn."""
    cells = [[_escaped(cell) for cell in row] for row in rows]
    lines = [list(head), *cells] if head else cells
    if not lines:
        return ""
    page = PAGE.get()
    if page is not None:
        return page.put(lambda: rows_drawn(cells, head, left))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    aligned = [str.ljust if number in left else str.rjust for number in range(len(widths))]
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)).rstrip()
        for row in lines
    )


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one pair a line, with the values aligned; pairs without a value are left out."""
    kept = [(_escaped(name), _escaped(value)) for name, value in pairs if value]
    page = PAGE.get()
    if page is not None and kept:
        return page.put(lambda: fields_drawn(kept))
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in kept)


def _escaped(cell: str) -> str:
    """A cell on one line, so that a name in a file cannot forge another row."""
    return printable(cell).replace("\n", "\\n")


def printable(text: str) -> str:
    """The text with control characters escaped, so that a name in a file cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`printable` text on one line."""
    return printable(" ".join(text.split("\n")))


def within_a_screen(text: str) -> str:
    """A text without its middle where it is longer than a screen, as one with a name from a hostile file may be."""
    if len(text) <= _SCREEN:
        return text
    return f"{text[: _SCREEN - _TAIL]} [...] {text[-_TAIL:]}"
