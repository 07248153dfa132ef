"""How many ways a backtracking matcher can try at most, told from a pattern's text without compiling it."""

from __future__ import annotations

import re
from math import inf

_QUANTIFIER = re.compile(r"([*+?]|\{\d*,?\d*\})[?+]?")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
_NAMED = re.compile(r"\?(:|P<\w+>)")
_UNKNOWN = frozenset("123456789gkN")
"""What makes an escape refer to a group, or to a character by its name."""
_DEPTH = 40
_SPECIAL = frozenset("\\.^$*+?{}[]|()")


def ways(pattern: str, length: int) -> float:
    """An upper bound of the ways in which a pattern can be laid on a text of a length, from its beginning on.

    Alternatives add up, what follows each other multiplies, and a repetition of one character can end anywhere, unless
    what follows is a character that it does not repeat. Of whatever is more than that (a group repeated that has a
    choice in it, groups that look around or refer back, flags) it knows no bound, and says infinity.
    """
    reader = _Reader(pattern, length)
    found = reader.alternatives(0)
    return found if reader.place == len(pattern) else inf


class _Reader:
    """A place in a pattern."""

    def __init__(self, pattern: str, length: int) -> None:
        self.pattern, self.length, self.place = pattern, length, 0

    def alternatives(self, depth: int) -> float:
        if depth > _DEPTH:
            return inf
        total = self._sequence(depth)
        while self._next() == "|":
            self.place += 1
            total += self._sequence(depth)
        return total

    def _sequence(self, depth: int) -> float:
        product = 1.0
        while self._next() not in ("", "|", ")") and product < inf:
            begin = self.place
            own = self._item(depth)
            product *= self._repeated(own, self.pattern[begin : self.place])
        return product

    def _item(self, depth: int) -> float:
        """The ways of one character, class, anchor or group, behind which the place then is."""
        sign = self._next()
        if sign == "\\":
            bound = inf if self.pattern[self.place + 1 : self.place + 2] in _UNKNOWN else 1.0
            self.place += 2
            return bound
        if sign == "[":
            found = _CLASS.match(self.pattern, self.place)
            self.place = len(self.pattern) if found is None else found.end()
            return inf if found is None else 1.0
        self.place += 1
        return self._group(depth) if sign == "(" else 1.0

    def _group(self, depth: int) -> float:
        if self._next() == "?":
            named = _NAMED.match(self.pattern, self.place)
            if named is None:
                return inf
            self.place = named.end()
        inside = self.alternatives(depth + 1)
        closed = self._next() == ")"
        self.place += 1
        return inside if closed else inf

    def _repeated(self, own: float, item: str) -> float:
        found = _QUANTIFIER.match(self.pattern, self.place)
        if found is None or found[1] == "{}":
            return own
        self.place = found.end()
        if found[1] == "?":
            return 1 + own
        if own > 1:
            return inf
        return 1.0 if self._ends_surely(item) else self.length + 1.0

    def _ends_surely(self, item: str) -> bool:
        """Whether what has to follow a repeated class of characters is a character outside of it."""
        behind = self.place
        while self.pattern[behind : behind + 1] == ")":  # A group that is closed and not repeated changes nothing.
            behind += 1
        first = behind + (self.pattern[behind : behind + 1] == "\\")
        following = self.pattern[first : first + 1]
        plain = following not in _SPECIAL if first == behind else not following.isalnum()
        if not following or not plain or _QUANTIFIER.match(self.pattern, first + 1):
            return False
        try:
            return item[0] in "[\\" and re.fullmatch(item, following) is None
        except re.error:
            return False

    def _next(self) -> str:
        return self.pattern[self.place : self.place + 1]
