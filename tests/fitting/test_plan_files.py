"""Plans as files: what is written of a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adaptzip.errors import UsageError
from adaptzip.fitting import plan_files
from adaptzip.fitting.forecasts import Forecast, PlanReport, Refusal
from adaptzip.fitting.plan_files import check_modules, read_plan, write_plan


def written(path: Path, ranks: dict[str, int], **asked: Any) -> dict[str, Any]:
    best, other = Forecast("svd", {}, 100, 10, 0.1, ranks), Forecast("loretta", {"order": 4}, 120, 12, 0.2, {})
    limits = {"budget": "2500B", "max_error": None} | asked
    write_plan(path, PlanReport((best, other), (Refusal("vblora", "too small"),), 1000), **limits)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_ranks_that_are_written_down_are_allocated_already(tmp_path: Path) -> None:
    found = written(tmp_path / "a.json", {"m": 2}, allocate="energy")
    assert (found["allocate"], found["ranks"]) == (None, {"m": 2})
    found = written(tmp_path / "b.json", {}, allocate="energy")
    assert (found["allocate"], found["ranks"]) == ("energy", None)


def test_a_plan_says_what_was_asked_and_what_was_predicted(tmp_path: Path) -> None:
    found = written(tmp_path / "a.json", {"m": 2})
    assert (found["schema"], found["method"], found["options"]) == (1, "svd", {})
    assert (found["budget"], found["max_error"]) == ("2500B", None)
    assert found["predicted"] == {"bytes": 100, "parameters": 10, "relative_error": 0.1}
    assert [row["method"] for row in found["table"]] == ["svd", "loretta"]
    assert found["table"][1]["options"] == {"order": 4}
    assert found["refused"] == [{"method": "vblora", "reason": "too small"}]
    plan = read_plan(tmp_path / "a.json")
    assert (plan.method, plan.budget, plan.max_error, plan.allocate, plan.ranks) == (
        "svd",
        "2500B",
        None,
        None,
        {"m": 2},
    )


def test_a_plan_keeps_the_effort_that_it_was_made_with(tmp_path: Path) -> None:
    assert written(tmp_path / "a.json", {"m": 2}, effort="fast")["effort"] == "fast"
    assert read_plan(tmp_path / "a.json").effort == "fast"


def test_a_plan_without_limits_keeps_the_error_that_it_is_made_for(tmp_path: Path) -> None:
    assert written(tmp_path / "a.json", {"m": 2}, budget=None)["max_error"] == 0.1
    assert written(tmp_path / "b.json", {"m": 2}, budget=None, max_error=0.3)["max_error"] == 0.3


def read(path: Path, **values: Any) -> plan_files.PlanFile:
    path.write_text(json.dumps({"method": "svd", **values}))
    return read_plan(path)


def test_what_a_plan_leaves_out_is_left_open(tmp_path: Path) -> None:
    assert read(tmp_path / "p.json") == plan_files.PlanFile("svd", {}, None, None, "default", None, None)
    assert read(tmp_path / "p.json", max_error=0.5, ranks={"m": 0}).ranks == {"m": 0}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schema": 2}, "schema is 2, expected 1"),
        ({"schema": 0}, "schema is 0, expected 1"),
        ({"more": 1}, "the key 'more' is unknown"),
        ({"method": None}, "method is None"),
        ({"method": "zip"}, "method is 'zip'"),
        ({"options": []}, "options is .*, expected an object"),
        ({"options": {"order": 4}}, "options has 'order', which the method svd does not know"),
        ({"budget": 100}, "budget is 100, expected a size"),
        ({"budget": "much"}, "budget 'much' is not"),
        ({"max_error": 0}, "max_error is 0, expected a number between"),
        ({"max_error": 1}, "max_error is 1, expected a number between"),
        ({"effort": "slow"}, "effort is 'slow', expected one of fast, default, best"),
        ({"effort": 1}, "effort is 1, expected one of fast"),
        ({"max_error": True}, "max_error is true, expected a number"),
        ({"allocate": "even"}, "allocation 'even' is unknown"),
        ({"ranks": {"m": -1}}, "ranks has -1 for 'm'"),
        ({"ranks": {"m": 1.0}}, "ranks has 1.0 for 'm'"),
        ({"ranks": {"m": True}}, "ranks has true for 'm'"),
        ({"ranks": [1]}, "ranks is .*, expected an object"),
    ],
)
def test_plans_that_say_what_can_not_be(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read(tmp_path / "p.json", **values)
    assert str(tmp_path / "p.json") in str(caught.value)


def test_a_plan_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"method": "svd"})
    (tmp_path / "p.json").write_text(text)
    monkeypatch.setattr(plan_files, "_MOST_BYTES", len(text))
    assert read_plan(tmp_path / "p.json").method == "svd"
    monkeypatch.setattr(plan_files, "_MOST_BYTES", len(text) - 1)
    with pytest.raises(UsageError, match="larger than"):
        read_plan(tmp_path / "p.json")


def test_every_module_of_a_plan_is_in_the_adapter() -> None:
    check_modules("p.json", {"a": 1}, {"a": None, "b": None})
    with pytest.raises(UsageError, match="ranks names the module 'c'"):
        check_modules("p.json", {"a": 1, "d": 1, "c": 1}, {"a": None})
