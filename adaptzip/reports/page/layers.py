"""Modules as cells of grids: kinds of modules down, layers across, from their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"(?<![^._])\d+(?![^._])")
_MARK = "\0"
_MOST_COLUMNS = 48
_MOST_ROWS = 60


@dataclass(frozen=True)
class Place:
    """Where a module stands: in the grid of a stem, in the row of a kind, in the column of its numbers."""

    stem: str
    row: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """The modules whose names begin alike.

    Attributes:
        stem: the part of their names before the first number; "" where there is none.
        rows: kinds, the rest of the names with `*` for further numbers.
        columns: what each column is called, such as "3", "1.0.2" or "0-20".
        cells: names of the modules by (row, column).
        more: kinds that have no row, as there are too many.
    """

    stem: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[int, int], tuple[str, ...]]
    more: int = 0


def places(names: Iterable[str]) -> dict[str, Place]:
    """The places of modules by their names.

    A number after the first that is the same in all modules of a kind belongs to the kind's name.
    """
    kinds: dict[tuple[str, str, int], dict[str, list[int]]] = {}
    for name in names:
        numbers = [int(found) for found in _NUMBER.findall(name)]
        kinds.setdefault((*_kind(name), len(numbers)), {})[name] = numbers
    return {
        name: Place(stem, *_split(row, numbers, _varying(list(modules.values()))))
        for (stem, row, _), modules in kinds.items()
        for name, numbers in modules.items()
    }


def _kind(name: str) -> tuple[str, str]:
    """The part of a name before the first number, and the rest with a mark for each further one."""
    first = _NUMBER.search(name)
    if first is None:
        return "", name
    return name[: first.start()].rstrip("._"), _NUMBER.sub(_MARK, name[first.end() :]).lstrip("._")


def _varying(numbers: Sequence[Sequence[int]]) -> list[bool]:
    """Of each number in the names of a kind, whether it stands in the column: the first, and those that vary."""
    return [at == 0 or len({row[at] for row in numbers}) > 1 for at in range(len(numbers[0]))]


def _split(row: str, numbers: Sequence[int], varying: Sequence[bool]) -> tuple[str, tuple[int, ...]]:
    """The name of a kind, and the numbers of the column."""
    column = tuple(number for number, varies in zip(numbers, varying, strict=True) if varies)
    rest = iter("*" if varies else str(number) for number, varies in zip(numbers[1:], varying[1:], strict=True))
    return re.sub(_MARK, lambda _: next(rest, "*"), row) or "all", column


def grids(names: Iterable[str]) -> list[Grid]:
    """All modules in grids, in the order of their names; what has no number stands in a column of its own."""
    found = places(names)
    stems = dict.fromkeys(one.stem for one in found.values())
    return [_grid(stem, {name: one for name, one in found.items() if one.stem == stem}) for stem in stems]


def _grid(stem: str, places: Mapping[str, Place]) -> Grid:
    columns, titles = _columns(list(places.values()))
    rows = list(dict.fromkeys(found.row for found in places.values()))
    shown = {row: number for number, row in enumerate(rows[:_MOST_ROWS])}
    cells: dict[tuple[int, int], tuple[str, ...]] = {}
    for name, found in places.items():
        if found.row in shown:
            at = (shown[found.row], columns[found.numbers])
            cells[at] = (*cells.get(at, ()), name)
    return Grid(stem, tuple(shown), titles, cells, len(rows) - len(shown))


def _columns(places: Sequence[Place]) -> tuple[Mapping[tuple[int, ...], int], tuple[str, ...]]:
    """The column of each tuple of numbers, and the columns' titles; where there are many, of the first number, and
    where these are many, of ranges of it."""
    every = sorted({found.numbers for found in places})
    if len(every) <= _MOST_COLUMNS:
        return {numbers: at for at, numbers in enumerate(every)}, tuple(".".join(map(str, one)) for one in every)
    firsts = sorted({numbers[0] for numbers in every})
    wide = -(-len(firsts) // _MOST_COLUMNS)
    parts = [firsts[start : start + wide] for start in range(0, len(firsts), wide)]
    where = {first: at for at, part in enumerate(parts) for first in part}
    titles = tuple(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    return {numbers: where[numbers[0]] for numbers in every}, titles
