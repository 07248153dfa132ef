"""Rooms for a few components: which of them to code, and at what step, as a method's own model foresees it.

Where one step decides everything, components of like strength vanish together, and a room that holds some of them
holds none. Here sets of components are held fast, and each gets the step that fills the room.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.rate import solve

INDEX_BYTES = 2
"""What a module's entry in the index takes, about."""
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of components that are compared; more than these are fine enough for one step to choose among."""
MOST = _COUNTS[-1]
_KINDS = 4
"""Modules that are compared for the smallest file."""
_LOOSE = 1.5
"""A set whose expected bytes are this many times the room is still worth a look: small blocks are foretold badly."""


@dataclass(frozen=True)
class Few:
    """A set of components at the step that fills a room.

    Attributes:
        size: expected bytes besides what every file takes.
        error: expected squared error of the whole update.
    """

    ranks: Mapping[str, int]
    step: float
    size: float
    error: float


def promising(
    fitted: FittedAdapter, caps: Mapping[str, int] | None, room: float, bounds: tuple[float, float]
) -> list[Few]:
    """Sets of few components that may fit in `room` bytes, the smallest expected error first."""
    found = [filled(fitted, ranks, room, bounds) for ranks in _sets(fitted, caps)]
    return sorted((few for few in found if few.size <= _LOOSE * room), key=lambda few: few.error)


def sufficient(
    fitted: FittedAdapter, caps: Mapping[str, int] | None, room: float, error: float, bounds: tuple[float, float]
) -> list[Few]:
    """Sets of few components that may leave a squared error at most in less than `room` bytes, the smallest first."""
    found = [_reaching(fitted, ranks, error, bounds) for ranks in _sets(fitted, caps)]
    return sorted((few for few in found if few.step > bounds[0] and few.size < _LOOSE * room), key=lambda few: few.size)


def _sets(fitted: FittedAdapter, caps: Mapping[str, int] | None) -> Iterator[Mapping[str, int]]:
    """Ranks of few components that are worth comparing."""
    yield from _best_first(fitted, caps)
    yield from cheapest(fitted, caps)


def _reaching(fitted: FittedAdapter, ranks: Mapping[str, int], error: float, bounds: tuple[float, float]) -> Few:
    """These ranks at the step at which they are expected to leave a squared error, or at a bound."""
    step = solve(lambda step: expected(fitted, step, ranks)[1], error, *bounds, rising=True)
    return Few(ranks, step, *expected(fitted, step, ranks))


def cheapest(fitted: FittedAdapter, caps: Mapping[str, int] | None) -> list[dict[str, int]]:
    """One component of the best module of each size, those of the fewest numbers first.

    All that there is, where ranks follow from the fit.
    """
    if fitted.fixed_ranks:
        return [fitted.ranks(sqrt(fitted.energy), caps)]
    best: dict[int, tuple[float, str]] = {}
    for name, profile in fitted.profiles.items():
        if caps is None or caps.get(name, 0):
            numbers, rank = fitted.numbers(name, 1), (-profile.scores[0], name)
            best[numbers] = min(best.get(numbers, rank), rank)
    return [{best[numbers][1]: 1} for numbers in sorted(best)[:_KINDS]]


def _best_first(fitted: FittedAdapter, caps: Mapping[str, int] | None) -> Iterator[dict[str, int]]:
    """The components that save most for each number, so many of them as `_COUNTS` says."""
    if fitted.fixed_ranks:
        return
    ranks: dict[str, int] = {}
    queue = [(-p.scores[0], name) for name, p in fitted.profiles.items() if caps is None or caps.get(name, 0)]
    heapq.heapify(queue)
    for count in range(1, MOST + 1):
        if not queue:
            return
        _, name = heapq.heappop(queue)
        ranks[name] = rank = ranks.get(name, 0) + 1
        scores = fitted.profiles[name].scores
        if rank < len(scores) and (caps is None or rank < caps.get(name, 0)):
            heapq.heappush(queue, (-scores[rank], name))
        if count in _COUNTS or not queue:
            yield dict(ranks)


def filled(fitted: FittedAdapter, ranks: Mapping[str, int], room: float, bounds: tuple[float, float]) -> Few:
    """These ranks at the step at which they are expected to fill a room."""
    step = solve(lambda step: expected(fitted, step, ranks)[0], room, *bounds, rising=False)
    return Few(ranks, step, *expected(fitted, step, ranks))


def expected(fitted: FittedAdapter, step: float, ranks: Mapping[str, int]) -> tuple[float, float]:
    """Expected bytes besides what every file takes, and squared error of the whole update; quick for few modules."""
    size, error = fitted.predict(step, ranks, list(ranks))
    if ranks:
        size += fitted.method.predict_shared(fitted.prepared, fitted.config, step) / 8
    left = fitted.energy - sum(map(fitted.energies.__getitem__, ranks))
    return size + INDEX_BYTES * len(ranks), max(0.0, left) + error


def expected_at(fitted: FittedAdapter, step: float, caps: Mapping[str, int] | None) -> tuple[float, float]:
    """`expected` at the ranks of a step."""
    size, error, count = fitted.foresee(step, caps)
    return size + INDEX_BYTES * count, error
