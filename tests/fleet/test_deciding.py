"""Which bases and banks are used, on made-up sizes and errors."""

from __future__ import annotations

from typing import Any

from adaptzip.fleet.deciding import ALONE, chosen, used

BY_ERROR: dict[str, Any] = {"budget": None, "share": "auto"}
BY_BUDGET: dict[str, Any] = {"budget": "100b", "share": "auto"}


def rows(*sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Adapters by what they take in each way."""
    return [{"ways": {way: {"bytes": size, "error": 0.1} for way, size in each.items()}} for each in sizes]


def by_error(*errors: dict[str, float], size: int = 90) -> list[dict[str, Any]]:
    """Adapters by their errors in each way, all of one size within a budget of 100 bytes."""
    made = [{way: {"bytes": size, "error": error} for way, error in each.items()} for each in errors]
    return [{"ways": ways, "room": 100} for ways in made]


def settings(kind: dict[str, Any], **sizes: int) -> dict[str, Any]:
    return {**kind, "artefacts": [[file, size] for file, size in sizes.items()]}


def test_what_saves_more_than_it_takes_is_used() -> None:
    fleet = rows({ALONE: 100, "a": 60}, {ALONE: 100, "a": 70}, {ALONE: 100, "a": 120})
    assert used(fleet, settings(BY_ERROR, a=69)) == ["a"]
    assert used(fleet, settings(BY_ERROR, a=70)) == []
    ways = [chosen(row, ["a"], BY_ERROR) for row in fleet]
    assert ways == ["a", "a", ALONE]


def test_of_two_that_do_the_same_one_is_enough() -> None:
    fleet = rows(*[{ALONE: 100, "a": 60, "b": 59}] * 10)
    assert used(fleet, settings(BY_ERROR, a=100, b=100)) == ["b"]
    assert used(fleet, settings(BY_ERROR, a=100, b=150)) == ["a"]
    assert used(fleet, settings(BY_ERROR, a=500, b=500)) == []


def test_two_that_suit_others_are_both_used() -> None:
    fleet = rows(*[{ALONE: 100, "a": 50}] * 5, *[{ALONE: 100, "b": 50}] * 5)
    assert used(fleet, settings(BY_ERROR, a=200, b=200)) == ["a", "b"]
    assert used(fleet, settings(BY_ERROR, a=200, b=300)) == ["a"]


def test_sharing_can_be_forced() -> None:
    fleet = rows({ALONE: 100, "a": 120}, {ALONE: 100})
    forced = settings({**BY_ERROR, "share": "always"}, a=1000)
    assert used(fleet, forced) == ["a"]
    assert [chosen(row, ["a"], forced) for row in fleet] == ["a", ALONE]


def test_with_a_budget_all_use_it_or_none() -> None:
    fleet = by_error({ALONE: 0.5, "a": 0.3}, {ALONE: 0.5, "a": 0.52})
    assert used(fleet, settings(BY_BUDGET, a=20)) == ["a"]
    assert [chosen(row, ["a"], BY_BUDGET) for row in fleet] == ["a", "a"]
    assert used(fleet, settings(BY_BUDGET, a=21)) == []
    worse = by_error({ALONE: 0.5, "a": 0.49}, {ALONE: 0.5, "a": 0.6})
    assert used(worse, settings(BY_BUDGET, a=20)) == []


def test_with_a_budget_no_adapter_pays_twice() -> None:
    fleet = by_error({ALONE: 0.5, "a": 0.3, "b": 0.2}, {ALONE: 0.5, "a": 0.3, "b": 0.2})
    assert used(fleet, settings(BY_BUDGET, a=20, b=20)) == ["b"]


def test_adapters_that_failed_do_not_count() -> None:
    assert used([{"error": {}}, *rows({ALONE: 100, "a": 10})], settings(BY_ERROR, a=50)) == ["a"]


def test_a_budget_is_kept_to_where_sharing_is_forced() -> None:
    fleet = by_error({ALONE: 0.5, "a": 0.6}, {ALONE: 0.5, "a": 0.6})
    forced = {**BY_BUDGET, "share": "always"}
    assert used(fleet, settings(forced, a=20)) == ["a"]
    assert used(fleet, settings(forced, a=21)) == []
