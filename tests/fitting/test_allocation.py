"""Ranks are shared out as the three rules say: against cases worked out by hand."""

from __future__ import annotations

import pytest

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.budget import Budget
from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.fitting.allocation import paths, pick_best, pick_by_numbers
from adaptzip.fitting.choosing import forecast
from adaptzip.fitting.requests import Request
from tests.cases.small_adapters import adapter

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
