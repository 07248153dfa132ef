"""PEFT's `rank_pattern` and `alpha_pattern`: values by pattern, of which the first that fits a module's name counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from adaptzip.checkpoints._plain_names import PlainNames, ends, plain_name
from adaptzip.core.patterns.matching import match

Number = TypeVar("Number", int, float)

FORM = r"(.*\.)?({})$"
"""What PEFT makes of a pattern before it uses it: it fits a whole name, or what stands behind one of its dots."""


class PatternTable(Mapping[str, Number], Generic[Number]):
    """Values by pattern, in the file's order. What is in it never changes; it remembers how to find a name."""

    def __init__(self, table: Mapping[str, Number]) -> None:
        self._table: dict[str, Number] = dict(table)
        self._values: list[Number] = list(self._table.values())
        plain: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
        self._others: list[tuple[int, str]] = []
        for place, pattern in enumerate(self._table):
            found = plain_name(pattern)
            if found is None:
                self._others.append((place, FORM.format(pattern)))
            else:
                plain[found[1]].append((found[0], place))
        self._whole, self._ends = PlainNames(plain[True]), PlainNames(plain[False])

    def __getitem__(self, pattern: str) -> Number:
        return self._table[pattern]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def first(self, name: str, default: Number) -> Number:
        """The value of the first pattern that fits, or the default.

        Raises:
            RefusedError: if that takes too long (`adaptzip.core.patterns`).
        """
        if not self._table:
            return default
        # What a line feed does to `.` and `$` is left to `re`.
        place = self._tried(name) if "\n" in name else self._looked_up(name)
        return default if place is None else self._values[place]

    def _looked_up(self, name: str) -> int | None:
        found = [self._whole.first(name), *map(self._ends.first, ends(name))]
        best = min((place for place in found if place is not None), default=None)
        for place, pattern in self._others:
            if best is not None and place > best:
                break
            if match(pattern, name) is not None:
                return place
        return best

    def _tried(self, name: str) -> int | None:
        patterns = enumerate(self._table)
        return next((place for place, pattern in patterns if match(FORM.format(pattern), name) is not None), None)
