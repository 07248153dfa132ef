"""Module names as few patterns, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A part of a dotted name that is a number."""


def patterns(names: Iterable[str]) -> list[tuple[str, int]]:
    """Module names as few patterns, `layer.{0..5}.attention.{key,query}`, each with how many it stands for.

    Only the first number of a name is gathered, and then the last parts of names that agree in all others.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    for name in names:
        before, found, after = _split(name)
        numbers.setdefault((before, after), set()).update(found)
    groups: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for (before, after), values in numbers.items():
        stem, leaf = _stem(before, after)
        groups.setdefault((*stem, tuple(sorted(values))), []).append(leaf)
    return [
        (before + _alternatives(values) + after + _alternatives(leaves), len(leaves) * max(1, len(values)))
        for (before, after, values), leaves in groups.items()
    ]


def _split(name: str) -> tuple[str, list[int], str]:
    """(what stands before the first number, the number, what stands after it)."""
    match = _NUMBER.search(name)
    if match is None:
        return "", [], name
    return name[: match.start()], [int(match[0])], name[match.end() :]


def _stem(before: str, after: str) -> tuple[tuple[str, str], str]:
    """((before, after) without the last part of the name, the last part)."""
    stem, dot, leaf = after.rpartition(".")
    return (before, stem + dot), leaf


def _alternatives(values: Sequence[int | str]) -> str:
    """`5`, `{0..5}`, `{0,2,5}`, `{key,query}`, or nothing for nothing."""
    if len(values) < 2:
        return "".join(map(str, values))
    first, last = values[0], values[-1]
    if isinstance(first, int) and isinstance(last, int) and last - first == len(values) - 1:
        return f"{{{first}..{last}}}"
    return f"{{{','.join(map(str, values))}}}"
