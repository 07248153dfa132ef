"""The library's reference is true: the page is current, and nothing public goes without a docstring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

import adaptzip
from checks.api_reference import PAGE, Entry, attributes, every_entry, members, problems, problems_of, reference
from checks.docstrings import markdown, sections
from checks.markdown import anchors


def test_the_page_is_current_and_nothing_is_left_out() -> None:
    assert list(problems()) == []
    assert PAGE.read_text(encoding="utf-8") == reference()


def test_every_public_name_is_there() -> None:
    told = {entry.name for entries in every_entry().values() for entry in entries}
    assert told >= set(adaptzip.__all__) - {"__version__"}
    assert {"UsageError", "Dialect", "Method", "Adapter.parameters", "export"} <= {
        line.removeprefix("### ").removeprefix("#### ")
        for line in reference().splitlines()
        if line.startswith(("### ", "#### "))
    }


def undocumented(size: int) -> int:
    return size


def half(size: int, *, shape: tuple[int, ...] = (), **options: Any) -> int:
    """Something.

    Args:
        size: how many,
            told on two lines.
        options: others.
    """
    return size


def without(size: int) -> int:
    """Has no list of its arguments, and needs none."""
    return size


@dataclass(frozen=True)
class Bare:
    count: int


@dataclass(frozen=True)
class Fields:
    """Has fields.

    Attributes:
        one, two: the first ones, and `three`, the last.
    """

    one: int
    two: int
    three: int
    four: int

    @property
    def told(self) -> int:
        """A sum."""
        return self.one + self.two

    def untold(self) -> int:
        return self.three

    def _own(self) -> int:
        return self.four


class Attributes:
    """Has some.

    Attributes:
        told: in a list.
    """

    told: ClassVar[int]
    said: ClassVar[int] = 2
    """Below it,
    on two lines."""
    untold: ClassVar[int]
    _own: ClassVar[int]


class Below(Fields):
    """Does what its base does in another way."""

    @property
    def told(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (undocumented, ["m.undocumented: has no docstring"]),
        (half, ["m.half: Args does not tell of 'shape'"]),
        (without, []),
        (Bare, ["m.Bare: has no docstring"]),
        (Fields, ["m.Fields: Attributes does not tell of 'four'", "m.Fields.untold: has no docstring"]),
        (Below, []),
        (Attributes, ["m.Attributes.untold: has no docstring"]),
    ],
)
def test_what_is_left_out_is_named(value: Callable[..., Any], expected: list[str]) -> None:
    entry = Entry(value.__name__, "m", value)
    assert [problem for one in (entry, *members(entry)) for problem in problems_of(one)] == expected


def test_what_is_said_below_an_attribute_is_told() -> None:
    assert attributes(Entry("Attributes", "m", Attributes)) == [("said", "Below it, on two lines."), ("untold", "")]
    assert attributes(Entry("half", "m", half)) == attributes(Entry("Fields", "m", Fields)) == []


def test_headings_of_one_name_are_numbered() -> None:
    assert anchors(["The library", "Dialect", "core.a_b", "dialect"]) == [
        "the-library",
        "dialect",
        "corea_b",
        "dialect-1",
    ]


def test_signatures() -> None:
    assert Entry("half", "m", half).signature == (
        "half(size: int, *, shape: tuple[int, ...] = (), **options: Any) -> int"
    )
    assert Entry("Below", "m", Below).signature.startswith("class Below(Fields)")


def test_a_docstring_becomes_markdown() -> None:
    arguments = "Args:\n    one, two: a\n        b.\n    *rest: c."
    text = f"Does it.\n\n{arguments}\n\nExample:\n    >>> 1 + 1\n    2\n\nWarns at times."
    assert [section.title for section in sections(text)] == ["", "Args", "Example", ""]
    assert markdown(text) == (
        "Does it.\n\nArgs:\n\n- `one`, `two`: a b.\n- `*rest`: c.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nWarns at times.\n"
    )
