"""Just enough of our docstrings to check and render them: plain text, and sections such as `Args:`."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from inspect import cleandoc
from textwrap import dedent

_SECTION = re.compile(r"^(Args|Attributes|Example|Raises|Returns|Yields):$")
_ITEM = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.+)$", re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A part of a docstring.

    Attributes:
        title: "" for plain text, else the word before the colon.
        text: what stands below it, without its indentation.
    """

    title: str
    text: str

    @property
    def entries(self) -> list[str]:
        """The text cut where a line is not indented, each entry on one line."""
        starts = re.split(r"\n(?=\S)", self.text.strip())
        return [" ".join(line.strip() for line in entry.splitlines() if line.strip()) for entry in starts]

    @property
    def names(self) -> set[str]:
        """What the entries tell of: the words before their colons, and words in backticks."""
        items = [match for match in map(_ITEM.match, self.entries) if match]
        told = {name.lstrip("*") for item in items for name in item[1].split(", ")}
        return told | set(re.findall(r"`(\w+)`", self.text))


def sections(docstring: str) -> list[Section]:
    """The parts of a docstring whose indentation was taken away (`inspect.cleandoc`), in order."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in docstring.splitlines():
        title = _SECTION.match(line)
        if title:
            found.append((title[1], []))
        elif found[-1][0] and line and not line.startswith(" "):
            found.append(("", [line]))
        else:
            found[-1][1].append(line)
    parts = [Section(title, dedent("\n".join(lines)).strip("\n")) for title, lines in found]
    return [part for part in parts if part.title or part.text]


def class_attributes(source: str) -> dict[str, str]:
    """What the source of a class says below each annotated name of its body; "" where it says nothing."""
    (made,) = ast.parse(dedent(source)).body
    assert isinstance(made, ast.ClassDef)
    found = {}
    for line, below in zip(made.body, [*made.body[1:], ast.Pass()], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            said = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            found[line.target.id] = " ".join(cleandoc(str(said)).split())
    return found


def markdown(docstring: str) -> str:
    """A docstring as Markdown: lists for its sections, and a code block for its example."""
    return "\n".join(_rendered(section) for section in sections(docstring))


def _rendered(section: Section) -> str:
    if not section.title:
        return f"{section.text}\n"
    if section.title == "Example":
        return f"```pycon\n{section.text}\n```\n"
    return f"{section.title}:\n\n" + "".join(f"- {_item(entry)}\n" for entry in section.entries)


def _item(entry: str) -> str:
    match = _ITEM.match(entry)
    if match is None:
        return entry
    names = ", ".join(f"`{name}`" for name in match[1].split(", "))
    return f"{names}: {match[2]}"
