"""Sharing ranks out over modules: uniform, by energy, or grown where they buy most.

Each way gives a path of allocations from few ranks to many; the budget decides how far along it to go.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Literal, get_args

from adaptzip.errors import CheckFailedError, UsageError

Allocation = Literal["uniform", "energy", "increlora"]
Units = Mapping[str, Sequence[float]]
"""Energy of each unit of rank of each module, falling."""
Ranks = dict[str, int]

_POINTS = 24
"""Allocations of a path that are compared where the budget does not single one out."""
_ROUNDS = 8
"""IncreLoRA grows the best one in this many modules in each round."""


def check_allocation(name: str) -> None:
    """Raises UsageError if there is no allocation of that name."""
    if name not in get_args(Allocation):
        raise UsageError(f"allocation {name!r} is unknown", hint=f"allocations: {', '.join(get_args(Allocation))}")


def paths(kind: str, units: Units, importance: Mapping[str, float] | None = None) -> list[Ranks]:
    """Allocations of one kind, each at least as large as the one before in every module.

    uniform: the same rank everywhere, as far as a module has it. energy: of each module as many units as keep one
    share of its energy. increlora: in rounds, one more unit for the modules whose next one buys most (IncreLoRA, arXiv
    2308.12043, section 3): by its energy, times the module's importance where data gave one. No module gets a second
    unit before each has its first.

    Raises:
        UsageError: if there is no allocation of that name.
    """
    check_allocation(kind)
    alive = {name: values for name, values in units.items() if len(values) and values[0] > 0}
    if kind == "uniform":
        most = max(map(len, alive.values()), default=0)
        return [{name: min(rank, len(values)) for name, values in alive.items()} for rank in range(1, most + 1)]
    if kind == "energy":
        return _by_energy(alive)
    return list(_grown(alive, importance or {}))


def pick_by_numbers(path: Sequence[Ranks], numbers: Callable[[Ranks], int], most: int) -> Ranks:
    """The last allocation of a path that stores at most `most` numbers.

    Raises:
        CheckFailedError: if even the first stores more.
    """
    fitting = bisect_right(path, most, key=numbers)
    if not fitting:
        smallest = numbers(path[0]) if path else 0
        raise CheckFailedError(
            f"{most} parameters are fewer than the {smallest} of the smallest allocation",
            hint="allow more parameters, or leave `allocate=` out",
        )
    return path[fitting - 1]


def pick_best(path: Sequence[Ranks], cost: Callable[[Ranks], float]) -> Ranks:
    """The allocation of least cost, among some spread evenly over a path.

    Raises:
        CheckFailedError: as `cost` where it raises it for every one of them.
    """
    count = min(_POINTS, len(path))
    points = sorted({round(i * (len(path) - 1) / max(1, count - 1)) for i in range(count)})
    best: tuple[float, int] | None = None
    failure: CheckFailedError | None = None
    for point in points:
        try:
            found = (cost(path[point]), point)
        except CheckFailedError as error:
            failure = error
            continue
        best = found if best is None else min(best, found)
    if best is None:
        raise failure or CheckFailedError("there is nothing to allocate ranks to", hint="leave `allocate=` out")
    return path[best[1]]


def _by_energy(units: Units) -> list[Ranks]:
    """One allocation for each share of energy at which some module's rank changes."""
    kept = {name: [part / sum(values) for part in accumulate(values)] for name, values in units.items()}
    shares = sorted({round(share, 9) for parts in kept.values() for share in parts})
    path = [{name: 1 + bisect_right(parts[:-1], share - 1e-9) for name, parts in kept.items()} for share in shares]
    return [ranks for i, ranks in enumerate(path) if i == 0 or ranks != path[i - 1]]


def _grown(units: Units, importance: Mapping[str, float]) -> Iterator[Ranks]:
    """Rounds of growth, one unit for each of the best modules; at first only for those without any."""
    ranks: Ranks = {}
    width = -(-len(units) // _ROUNDS)
    queue = [(-_worth(units, importance, name, 0), name) for name in units]
    heapq.heapify(queue)
    while queue:
        chosen = [heapq.heappop(queue)[1] for _ in range(min(width, len(queue)))]
        for name in chosen:
            ranks[name] = ranks.get(name, 0) + 1
            if ranks[name] > 1 and ranks[name] < len(units[name]):
                heapq.heappush(queue, (-_worth(units, importance, name, ranks[name]), name))
        if not queue and all(rank == 1 for rank in ranks.values()):
            queue = [(-_worth(units, importance, name, 1), name) for name in units if len(units[name]) > 1]
            heapq.heapify(queue)
        yield dict(ranks)


def _worth(units: Units, importance: Mapping[str, float], name: str, rank: int) -> float:
    """What the unit after `rank` buys."""
    return units[name][rank] * importance.get(name, 1.0)
