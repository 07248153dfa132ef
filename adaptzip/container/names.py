"""Module names as brace patterns: `layers.{0-31}.self_attn.{q_proj,v_proj}` stands for 64 names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product

from adaptzip.errors import FormatError

_TOKEN = re.compile(r"\d+|\.|[^\d.]+")
_SPECIAL = re.compile(r"[\\{},]")
_ESCAPED = re.compile(r"\\(.)")
_PIECE = re.compile(r"\{((?:[^{}\\]|\\.)*)\}|((?:[^{}\\]|\\.)+)")
_RANGE = re.compile(r"(0|[1-9]\d*)-(0|[1-9]\d*)")


def factor(names: Iterable[str]) -> list[str]:
    """Patterns that together expand to exactly `names`, each once."""
    groups = [tuple(frozenset([token]) for token in _TOKEN.findall(name)) for name in sorted(names)]
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
        FormatError: if a pattern is malformed, or all together stand for more than `limit` names.
    """
    names: list[str] = []
    for pattern in patterns:
        pieces = _parse(pattern)
        count = 1
        for piece in pieces:
            count *= len(piece)
            if count > limit - len(names):
                raise FormatError(f"module patterns stand for more than {limit} names")
        names += ["".join(choice) for choice in product(*pieces)]
    return names


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
    numbers = sorted(int(t) for t in tokens if t.isdecimal() and t.isascii() and str(int(t)) == t)
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


def _parse(pattern: str) -> list[list[str]]:
    pieces: list[list[str]] = []
    position = 0
    while position < len(pattern):
        match = _PIECE.match(pattern, position)
        if match is None:
            raise FormatError(f"module pattern {pattern!r} is malformed")
        position = match.end()
        if match[2] is not None:
            pieces.append([_ESCAPED.sub(r"\1", match[2])])
        else:
            pieces.append([name for item in _items(match[1]) for name in _alternatives(item, pattern)])
    return pieces


def _items(text: str) -> list[str]:
    return re.findall(r"(?:[^,\\]|\\.)+", text)


def _alternatives(item: str, pattern: str) -> list[str]:
    match = _RANGE.fullmatch(item)
    if match is None:
        return [_ESCAPED.sub(r"\1", item)]
    first, last = int(match[1]), int(match[2])
    if not first < last < first + 10**6:
        raise FormatError(f"module pattern {pattern!r} has a range that is empty or too long")
    return [str(n) for n in range(first, last + 1)]
