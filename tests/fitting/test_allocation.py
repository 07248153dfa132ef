"""Ranks are shared out as the three rules say: against cases worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.budget import Budget
from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.fitting.allocation import paths, pick_best, pick_by_numbers
from adaptzip.fitting.choosing import forecast
from adaptzip.fitting.requests import Request
from adaptzip.testing.adapters import adapter

UNITS = {"a": [9.0, 4.0, 1.0], "b": [5.0, 5.0], "c": [0.0]}
"""Energies of each unit of rank; nothing is stored of c."""


def test_uniform_takes_the_same_rank_as_far_as_a_module_has_it() -> None:
    assert paths("uniform", UNITS) == [{"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 3, "b": 2}]


def test_energy_keeps_one_share_everywhere() -> None:
    # a keeps 9/14 with one unit, 13/14 with two; b keeps 1/2 with one: at a share of 9/14, b needs both.
    assert paths("energy", UNITS) == [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}, {"a": 3, "b": 2}]


def test_increlora_grows_where_the_next_unit_buys_most() -> None:
    # Two modules make rounds of one. First units come first, 9 and 5; then b's second has 5, a's 4, and its last 1.
    assert paths("increlora", UNITS) == [
        {"a": 1},
        {"a": 1, "b": 1},
        {"a": 1, "b": 2},
        {"a": 2, "b": 2},
        {"a": 3, "b": 2},
    ]


def test_importance_turns_the_order_of_growth() -> None:
    grown = paths("increlora", UNITS, {"a": 2.0, "b": 1.0})
    assert grown[2] == {"a": 2, "b": 1}  # 2 * 4 before 5
    assert grown[3] == {"a": 2, "b": 2}  # 5 before 2 * 1


def test_a_round_grows_several_modules_at_once() -> None:
    units = {f"m{i:02}": [1.0, 1.0 / (i + 1)] for i in range(16)}
    path = paths("increlora", units)
    assert [len(ranks) for ranks in path[:9]] == [2, 4, 6, 8, 10, 12, 14, 16, 16]
    assert set(path[7].values()) == {1}
    assert [name for name, rank in path[8].items() if rank == 2] == ["m00", "m01"]


def test_a_round_grows_an_eighth_of_the_modules_and_at_least_one() -> None:
    assert [len(paths("increlora", {f"m{i:02}": [1.0] for i in range(n)})[0]) for n in (1, 8, 9, 16, 17)] == [
        1, 1, 2, 2, 3,
    ]  # fmt: skip


def test_modules_without_energy_or_units_get_no_rank() -> None:
    units = {"a": [2.0], "zero": [0.0, 0.0], "none": []}
    for kind in ("uniform", "energy", "increlora"):
        assert paths(kind, units) == [{"a": 1}]
        assert paths(kind, {"none": []}) == []


def test_growth_ends_with_every_unit_of_every_module() -> None:
    units = {"a": [3.0, 2.0, 1.0], "b": [1.0], "c": [5.0, 4.0]}
    path = paths("increlora", units)
    assert path[-1] == {"a": 3, "b": 1, "c": 2}
    assert all(before.get(name, 0) <= after.get(name, 0) for before, after in pairwise(path) for name in units)
    assert [sum(ranks.values()) for ranks in path] == [1, 2, 3, 4, 5, 6]


def test_what_has_no_importance_counts_once() -> None:
    """9 before 5; then of the second units 4 before 5 * 0.5."""
    assert paths("increlora", UNITS, {"b": 0.5})[2] == {"a": 2, "b": 1}


def test_an_unknown_allocation_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="allocation 'even' is unknown") as error:
        paths("even", UNITS)
    assert error.value.hint == "allocations: uniform, energy, increlora"


def test_a_path_of_nothing_can_not_be_picked_from() -> None:
    with pytest.raises(CheckFailedError, match="9 parameters are fewer than the 0"):
        pick_by_numbers([], lambda ranks: 1, 9)
    with pytest.raises(CheckFailedError, match="nothing to allocate ranks to"):
        pick_best([], lambda ranks: 1.0)


@pytest.mark.parametrize(("length", "looked_at"), [(1, 1), (2, 2), (24, 24), (25, 24), (100, 24)])
def test_points_of_a_path_are_looked_at_from_end_to_end(length: int, looked_at: int) -> None:
    path = [{"a": rank} for rank in range(1, length + 1)]
    seen: list[int] = []

    def cost(ranks: dict[str, int]) -> float:
        seen.append(ranks["a"])
        return 1.0

    assert pick_best(path, cost) == {"a": 1}
    assert (len(seen), seen[0], seen[-1]) == (looked_at, 1, length)
    assert seen == sorted(set(seen))
    gaps = [b - a for a, b in pairwise(seen)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_parameters_decide_how_far_to_go() -> None:
    path = paths("uniform", UNITS)

    def numbers(ranks: dict[str, int]) -> int:
        return 10 * sum(ranks.values())

    assert pick_by_numbers(path, numbers, 39) == {"a": 1, "b": 1}
    assert pick_by_numbers(path, numbers, 40) == {"a": 2, "b": 2}
    with pytest.raises(CheckFailedError, match="19 parameters are fewer than the 20"):
        pick_by_numbers(path, numbers, 19)


def test_the_cheapest_point_of_a_path_is_found_past_points_that_fail() -> None:
    path = paths("uniform", {"a": [1.0] * 9})

    def cost(ranks: dict[str, int]) -> float:
        if ranks["a"] > 6:
            raise CheckFailedError("too large")
        return abs(ranks["a"] - 4)

    assert pick_best(path, cost) == {"a": 4}

    def never(ranks: dict[str, int]) -> float:
        raise CheckFailedError("too large")

    with pytest.raises(CheckFailedError, match="too large"):
        pick_best(path, never)


SOURCE = adapter({"strong": (40, 40, 6), "weak": (40, 40, 6), "wide": (80, 40, 4)}, seed=3)


def test_a_uniform_budget_is_spent_on_one_rank() -> None:
    # Rank 2 takes 2 * (80 + 80 + 120) = 560 numbers, rank 3 takes 840.
    found = forecast(SOURCE, Request(to="svd", budget=Budget.parse("839"), allocate="uniform"))
    assert set(found.ranks.values()) == {2}
    assert found.parameters == 560


@pytest.mark.parametrize("kind", ["uniform", "energy", "increlora"])
@pytest.mark.parametrize("budget", ["700", "1500B"])
def test_every_rule_keeps_to_every_budget(kind: str, budget: str) -> None:
    compressed = adaptzip.compress(SOURCE, budget=budget, allocate=kind)
    size = writer.size(compressed)
    assert compressed.provenance.parameters <= 700 if budget == "700" else size <= 1500
    assert 0 < compressed.provenance.relative_error < 1


def test_an_allocation_needs_something_to_spend() -> None:
    with pytest.raises(UsageError, match="needs a budget or an error"):
        adaptzip.compress(SOURCE, allocate="energy")
    with pytest.raises(UsageError, match="allocation 'magic' is unknown"):
        adaptzip.compress(SOURCE, allocate="magic", budget="700")


def test_ranks_that_are_given_are_kept_to() -> None:
    compressed = adaptzip.compress(SOURCE, max_error=0.999, ranks={"strong": 2})
    kept = [name for name, chunk in zip(compressed.sites, compressed.chunks, strict=True) if chunk]
    assert kept in ([], ["strong"])
    planned = forecast(SOURCE, Request(to="svd", budget=Budget.parse("3000B"), ranks={"strong": 2, "wide": 1}))
    assert planned.ranks == {"strong": 2, "wide": 1}
