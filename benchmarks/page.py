"""Tables as Markdown, and their places in docs/benchmarks.md.

A page says where a table goes with a pair of comments, `<!-- benchmark: NAME -->` and `<!-- end benchmark -->`. What
is between them is written by the benchmark of that name and by nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def put(name: str, text: str, page: Path = PAGE) -> None:
    """Put `text` between the comments of `name`.

    Raises:
        ValueError: if the page has no such comments.
    """
    before = page.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- benchmark: {re.escape(name)} -->\n).*?(<!-- end benchmark -->)", flags=re.DOTALL)
    after, count = place.subn(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", before)
    if count != 1:
        raise ValueError(f"{page} has {count} places for benchmark {name!r}, expected 1")
    page.write_text(after, encoding="utf-8")
