"""Tables on a terminal: with colour, and as wide as it is. Elsewhere they are plain text."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.table import Table

Draw = Callable[[], "Table"]
_FIRST = "cyan"
_NAMES = "dim"


class Page:
    """A text with a mark in the place of each table. It remembers the tables.

    Marks have a random part, so that no name in a file can be taken for one.
    """

    def __init__(self) -> None:
        self._mark = f"\0{os.urandom(8).hex()}:"
        self._tables: list[Draw] = []

    def put(self, draw: Draw) -> str:
        """The mark of a new table."""
        self._tables.append(draw)
        return f"{self._mark}{len(self._tables) - 1}\0"

    def pieces(self, text: str) -> Iterator[str | Draw]:
        """A text, taken apart at its marks."""
        before, *rest = text.split(self._mark)
        yield before
        for piece in rest:
            number, _, after = piece.partition("\0")
            yield self._tables[int(number)]
            # A table ends its last line itself.
            yield after.removeprefix("\n")


PAGE: ContextVar[Page | None] = ContextVar("page", default=None)
"""Where tables are put; None makes plain text of them."""


def colours(stream: TextIO) -> bool:
    """Whether a stream shows colour: a terminal that is not told otherwise (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show(stream: TextIO, text: Callable[[], str], plain: Callable[[str], str]) -> None:
    """Show a text on a terminal, with its tables drawn.

    Args:
        text: makes it.
        plain: what becomes of what is no table.
    """
    from rich.console import Console

    page, console = Page(), Console(file=stream, highlight=False)
    token = PAGE.set(page)
    try:
        told = text()
    finally:
        PAGE.reset(token)
    for piece in page.pieces(f"{told}\n"):
        if isinstance(piece, str):
            stream.write(plain(piece))
        else:
            console.print(piece())
    stream.flush()


def rows_drawn(rows: Sequence[Sequence[str]], head: Sequence[str], left: Collection[int]) -> Table:
    """Rows of plain cells under a head; what does not fit is folded, so that no character is lost."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_header=bool(head), show_edge=False, pad_edge=False, header_style="bold")
    for number, name in enumerate(head or rows[0]):
        table.add_column(
            Text(name if head else ""),
            justify="left" if number in left else "right",
            style=_FIRST if number == 0 else "",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def fields_drawn(pairs: Sequence[tuple[str, str]]) -> Table:
    """Names and values, one pair a line; long values go on below themselves."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style=_NAMES, no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name), Text(value))
    return table
