"""Which adapters a trained fleet has: kinds, tasks, seeds, starts and ranks, all from their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from benchmarks.fleet import encoder, story
from benchmarks.fleet.kinds import Kind

KINDS: dict[str, Kind] = {"minilm": encoder.KIND, "stories": story.KIND}
GROUP = 8
"""Members in a row that have one rank; the last of them learns the task of the one before it, from another seed."""
RANKS = (4, 4, 4, 8)
"""Of groups in turn."""
COMMON = 0
"""The seed of A where members share their start, as every other one does."""
LEFT_OUT = (2, 3)
"""Places in a group whose adapters shared parts are made without: one of each kind of start."""


@dataclass(frozen=True)
class Member:
    """One adapter.

    Attributes:
        name: the kind, and a number within it.
        task: the number of its task.
        seed: what batches are drawn by.
        start: what A is drawn by.
    """

    name: str
    kind: str
    task: int
    seed: int
    start: int
    rank: int


def members(count: int) -> list[Member]:
    """The first `count`, the kinds in turn; a larger fleet begins with the smaller one."""
    return list(islice(_all(), count))


def _all() -> Iterator[Member]:
    number = 0
    while True:
        for kind in KINDS:
            yield _member(kind, number)
        number += 1


def _member(kind: str, number: int) -> Member:
    group, place = divmod(number, GROUP)
    task = group * (GROUP - 1) + min(place, GROUP - 2)
    start = COMMON if place % 2 == 0 else 1 + number
    return Member(f"{kind}/{number:04}", kind, task, number, start, RANKS[group % len(RANKS)])


def is_left_out(number: int) -> bool:
    """Whether shared parts are made without the member of a number within its kind, and then meet it as a new one."""
    return number % GROUP in LEFT_OUT
