"""Patterns that are names, each character itself or any one: looked up, where there are many, not tried in turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_PLAIN = re.compile(r"(\^?)((?:[^\\.^$*+?{}\[\]|()\n]|\\[^\w\n]|\.)*)\$?")
_CHARACTER = re.compile(r"\\(.)|(.)")
_ANY = "\0"
"""What stands for any one character in a text that is looked up."""


def plain_name(pattern: str) -> tuple[str, bool] | None:
    """A pattern's text, with `_ANY` where any one character may stand, and whether it has to begin a name.

    None for a pattern that is more than that, or has the character that stands for any.
    """
    found = _PLAIN.fullmatch(pattern)
    if found is None or _ANY in pattern:
        return None
    parts = (_ANY if plain == "." else escaped or plain for escaped, plain in _CHARACTER.findall(found[2]))
    return "".join(parts), bool(found[1])


class PlainNames:
    """The places of many such texts in a list, found by a name in a time that hardly grows with their number."""

    def __init__(self, texts: Iterable[tuple[str, int]]) -> None:
        self._places: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}
        for text, place in texts:
            spots = tuple(spot for spot, character in enumerate(text) if character == _ANY)
            self._places.setdefault(len(text), {}).setdefault(spots, {}).setdefault(text, place)

    def first(self, name: str) -> int | None:
        """The first place of a text that is `name`; None where there is none."""
        found = (places.get(_masked(name, spots)) for spots, places in self._places.get(len(name), {}).items())
        return min((place for place in found if place is not None), default=None)


def ends(name: str) -> Iterator[str]:
    """A name, and what stands behind each of its dots."""
    yield name
    place = name.find(".")
    while place >= 0:
        yield name[place + 1 :]
        place = name.find(".", place + 1)


def _masked(name: str, spots: tuple[int, ...]) -> str:
    if not spots:
        return name
    characters = list(name)
    for spot in spots:
        characters[spot] = _ANY
    return "".join(characters)
