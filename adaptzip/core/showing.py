"""What results show of themselves: one short line in a console, and in a notebook a table where that helps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Shown:
    """A result whose `repr` is one line, however much it holds.

    A dataclass that is one says `repr=False`.
    """

    def _told(self) -> Iterable[str]:
        """What the line says, part by part; empty parts are left out."""
        raise NotImplementedError

    def _rows(self) -> tuple[Sequence[str], Iterable[Sequence[str]]] | None:
        """The head and the rows of the table; None where a line is enough."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(filter(None, self._told()))})"

    def _repr_html_(self) -> str | None:
        """The line and the table, as notebooks ask for it."""
        found = self._rows()
        if found is None:
            return None
        head, rows = found
        lines = [_row("th", head), *(_row("td", row) for row in rows)]
        return f"<p><code>{escape(repr(self))}</code></p>\n<table>\n" + "\n".join(lines) + "\n</table>"


def _row(kind: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"
