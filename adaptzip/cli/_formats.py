"""Tables for other programs: Markdown, LaTeX (with booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence

Rows = Sequence[Sequence[str]]

_SPECIAL = re.compile(r"[&%$#_{}]")


def markdown(head: Sequence[str], rows: Rows) -> str:
    """The first column to the left, the others to the right."""
    under = ["---", *["---:"] * (len(head) - 1)]
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, under, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(head: Sequence[str], rows: Rows) -> str:
    """A `tabular` of the package booktabs."""
    lines = [" & ".join(_SPECIAL.sub(lambda found: chr(92) + found[0], cell) for cell in row) for row in (head, *rows)]
    body = "\n".join(f"  {line} \\\\" for line in lines[1:])
    columns = "l" + "r" * (len(head) - 1)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n  {lines[0]} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n"
        "\\end{tabular}"
    )


def comma_separated(head: Sequence[str], rows: Rows) -> str:
    """As RFC 4180 has it, with lines that end as the system's do."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue().rstrip("\n")


WRITERS: Mapping[str, Callable[[Sequence[str], Rows], str]] = {
    "md": markdown,
    "latex": latex,
    "csv": comma_separated,
}
"""By what --format calls them."""
