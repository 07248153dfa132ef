"""Module names as brace patterns: `layers.{0-31}.self_attn.{q_proj,v_proj}` stands for 64 names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product

from adaptzip.core.limits import WHOLE, Room
from adaptzip.errors import FormatError

MOST_TEXT = 2**26
"""Most characters that all names of one call may have together."""

_TOKEN = re.compile(r"[0-9]+|\.|[^0-9.]+")
_SPECIAL = re.compile(r"[\\{},]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
# Characters are taken run by run: a group repeated for each of them would take a hundred bytes a character.
_PIECE = re.compile(r"\{([^{}\\]*(?:\\.[^{}\\]*)*)\}|((?:[^{}\\]|\\.)[^{}\\]*(?:\\.[^{}\\]*)*)", re.DOTALL)
_ITEM = re.compile(r"(?:[^,\\]|\\.)[^,\\]*(?:\\.[^,\\]*)*", re.DOTALL)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_EXPERT = re.compile(r"(.+)\[(?:0|[1-9][0-9]{0,5})\]", re.DOTALL)
_RANGE = re.compile(rf"({_NUMBER.pattern})-({_NUMBER.pattern})")


def factor(names: Iterable[str]) -> list[str]:
    """Patterns that together expand to exactly `names`, each once."""
    alone: dict[str, frozenset[str]] = {}
    groups = [
        tuple([alone.setdefault(token, frozenset((token,))) for token in _TOKEN.findall(name)])
        for name in sorted(names)
    ]
    merged = True
    while merged:
        merged = False
        for position in range(max(map(len, groups), default=0) - 1, -1, -1):
            count = len(groups)
            groups = _merge(groups, position)
            merged |= len(groups) < count
    return sorted("".join(map(_write, group)) for group in groups)


def expand(patterns: Sequence[str], limit: int) -> list[str]:
    """The names that `patterns` stand for, in pattern order.

    Raises:
        FormatError: as `expand_each`.
    """
    return [name for names in expand_each(patterns, limit) for name in names]


def expand_each(patterns: Sequence[str], limit: int, room: Room = WHOLE) -> list[list[str]]:
    """The names that each pattern stands for.

    Raises:
        FormatError: if a pattern is malformed, or all together stand for more than `limit` names or `MOST_TEXT`
            characters; no pattern is expanded before this is certain of it and those before.
        RefusedError: if they stand for more than there is room for.
    """
    found: list[list[str]] = []
    left, text = limit, MOST_TEXT
    for pattern in patterns:
        room.check("names", len(pattern))
        room.check("modules", pattern.count(",") - pattern.count(r"\,"))  # Alternatives are never more than names.
        pieces = _parse(pattern)
        count = 1
        for piece in pieces:
            count *= _count(piece)
            if count > left:
                raise FormatError(f"module patterns stand for more than {limit} names")
        left -= count
        longest = sum(max(map(_longest, piece)) for piece in pieces)
        text -= count * longest
        if text < 0:
            raise FormatError(f"module patterns stand for more than {MOST_TEXT} characters")
        for what, many in (("modules", limit - left), ("name", longest), ("names", MOST_TEXT - text)):
            room.check(what, many)
        found.append(list(map("".join, product(*map(_texts, pieces)))))
    return found


def parameter_of(name: str) -> str | None:
    """The parameter that an expert's name gives, as in `experts.down_proj[3]`; None where it is no such name."""
    match = _EXPERT.fullmatch(name)
    return None if match is None else match[1]


def _merge(groups: list[tuple[frozenset[str], ...]], position: int) -> list[tuple[frozenset[str], ...]]:
    """Unite groups that differ in the token set at one position only."""
    united: dict[tuple[object, ...], tuple[frozenset[str], ...]] = {}
    for group in groups:
        if position >= len(group):
            united[(group,)] = group
            continue
        key = (group[:position], group[position + 1 :])
        before = united.get(key)
        tokens = group[position] if before is None else before[position] | group[position]
        united[key] = (*group[:position], tokens, *group[position + 1 :])
    return list(united.values())


def _write(tokens: frozenset[str]) -> str:
    if len(tokens) == 1:
        return _escape(next(iter(tokens)))
    numbers = sorted(int(t) for t in tokens if _NUMBER.fullmatch(t))
    words = sorted(tokens - {str(n) for n in numbers})
    return "{" + ",".join([*_ranges(numbers), *map(_escape, words)]) + "}"


def _ranges(numbers: list[int]) -> list[str]:
    result: list[str] = []
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            run = numbers[start:i]
            result += [f"{run[0]}-{run[-1]}"] if len(run) > 1 else [str(run[0])]
            start = i
    return result


def _escape(text: str) -> str:
    escaped = _SPECIAL.sub(r"\\\g<0>", text)
    return escaped.replace("-", r"\-") if _RANGE.fullmatch(text) else escaped


Item = str | range
"""One alternative, or a row of them that are whole numbers."""


def _parse(pattern: str) -> list[list[Item]]:
    pieces: list[list[Item]] = []
    position = 0
    while position < len(pattern):
        match = _PIECE.match(pattern, position)
        if match is None:
            raise FormatError(f"module pattern {_shown(pattern)} is malformed")
        position = match.end()
        if match[2] is not None:
            pieces.append([_ESCAPED.sub(r"\1", match[2])])
        else:
            pieces.append(_items(match[1], pattern))
    return pieces


def _items(text: str, pattern: str) -> list[Item]:
    items = _ITEM.findall(text)
    if sum(map(len, items)) + len(items) - 1 != len(text):
        raise FormatError(f"module pattern {_shown(pattern)} has an empty alternative")
    return [_item(item, pattern) for item in items]


def _item(text: str, pattern: str) -> Item:
    match = _RANGE.fullmatch(text)
    if match is None:
        return _ESCAPED.sub(r"\1", text)
    first, last = int(match[1]), int(match[2])
    if not first < last:
        raise FormatError(f"module pattern {_shown(pattern)} has an empty range")
    return range(first, last + 1)


def _count(piece: Sequence[Item]) -> int:
    return sum(1 if isinstance(item, str) else item.stop - item.start for item in piece)


def _longest(item: Item) -> int:
    return len(item if isinstance(item, str) else str(item[-1]))


def _texts(piece: Sequence[Item]) -> list[str]:
    return [text for item in piece for text in ([item] if isinstance(item, str) else map(str, item))]


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:77] + "...")
