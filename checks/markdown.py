"""Just enough of Markdown to check it: headings, links and fenced code blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(\s*)(```+)\s*(\w*)\s*$")
_LINK = re.compile(r"""\[[^\]]*\]\(([^()\s]+)\)|\b(?:href|src|srcset)="([^"\s]+)\"""")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: the file it stands in.
        line: line number of its first line.
        language: the word after the fence, "" where there is none.
        text: what is between the fences.
    """

    page: Path
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Page:
    """A Markdown file, taken apart.

    Attributes:
        links: (line number, target) of every inline link and of HTML's, in order.
        anchors: what a `#fragment` may name.
    """

    path: Path
    blocks: tuple[Block, ...]
    links: tuple[tuple[int, str], ...]
    anchors: frozenset[str]


def read_page(path: Path) -> Page:
    """Take a Markdown file apart; what looks like a link inside a code block is none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    blocks = tuple(_blocks(path, lines))
    prose = list(enumerate(lines, start=1))
    for block in blocks:
        length = block.text.count("\n")
        prose[block.line - 2 : block.line + length] = [(0, "")] * (length + 2)
    links = tuple((number, match[1] or match[2]) for number, line in prose for match in _LINK.finditer(line))
    headings = [match[1] for _, line in prose if (match := _HEADING.match(line))]
    return Page(path, blocks, links, frozenset(anchors(headings)))


def anchors(headings: Iterable[str]) -> list[str]:
    """The fragments that GitHub gives the headings of a page, in order: those of one name are numbered."""
    seen: Counter[str] = Counter()
    found = []
    for heading in headings:
        own = _anchor(heading)
        found.append(f"{own}-{seen[own]}" if seen[own] else own)
        seen[own] += 1
    return found


def _blocks(path: Path, lines: list[str]) -> Iterator[Block]:
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = (number, fence[2], fence[3])
        elif fence[2] == opened[1] and not fence[3]:
            text = "".join(f"{line}\n" for line in lines[opened[0] : number - 1])
            yield Block(path, opened[0] + 1, opened[2], text)
            opened = None


def _anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading that no other one is like."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")
