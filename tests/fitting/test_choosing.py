"""Plans, the choice between methods, and the plan file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from adaptzip import methods
from adaptzip.adz.container import writer
from adaptzip.core.budget import Budget
from adaptzip.errors import CheckFailedError, RefusedError, UsageError
from adaptzip.fitting import choosing, running
from adaptzip.fitting.choosing import choose_method, reference_at
from adaptzip.fitting.forecasts import Forecast, PlanReport, Refusal
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.plan_files import check_modules, read_plan, write_plan
from adaptzip.fitting.requests import AUTO, Request
from adaptzip.methods import REFERENCE
from adaptzip.testing.adapters import adapter

SOURCE = adapter({f"l.{i}": (64, 48, 6) for i in range(5)}, seed=7)
FAST = [name for name in methods.fittable() if not methods.load_fittable(name).needs_basis]


@pytest.fixture(scope="module")
def report() -> PlanReport:
    return adaptzip.plan(SOURCE, budget="2500B")


def test_every_method_has_rows_or_a_reason(report: PlanReport) -> None:
    said = {row.method for row in report.forecasts} | {row.method for row in report.refusals}
    assert said == set(methods.fittable())
    assert all(row.reason and "\n" not in row.reason for row in report.refusals)


def test_the_least_error_comes_first_and_within_the_budget(report: PlanReport) -> None:
    errors = [row.relative_error for row in report.forecasts]
    assert errors == sorted(errors)
    assert report.best is report.forecasts[0]
    assert all(row.bytes <= 1.02 * 2500 for row in report.forecasts)


def test_for_an_error_the_fewest_bytes_come_first() -> None:
    report = adaptzip.plan(SOURCE, max_error=0.3, methods=FAST)
    sizes = [row.bytes for row in report.forecasts]
    assert sizes == sorted(sizes)
    assert len({row.method for row in report.forecasts}) > 1


def test_without_a_limit_all_aim_at_the_default_error() -> None:
    report = adaptzip.plan(SOURCE, methods=[REFERENCE])
    assert report.best.relative_error == pytest.approx(0.1, rel=0.01)


def test_a_basis_that_is_missing_is_a_reason_and_no_error() -> None:
    needy = [name for name in methods.fittable() if methods.load_fittable(name).default_basis == "base"]
    assert needy
    report = adaptzip.plan(SOURCE, budget="2500B", methods=needy)
    assert [row.method for row in report.refusals] == needy
    with pytest.raises(CheckFailedError, match="no method can do it"):
        _ = report.best


def test_a_file_that_can_not_be_so_small_is_a_reason() -> None:
    report = adaptzip.plan(SOURCE, budget="100B", methods=[REFERENCE])
    assert "100 bytes cannot be reached" in report.refusals[0].reason


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(UsageError, match="'magic' is unknown"):
        adaptzip.plan(SOURCE, methods=["magic"])


def test_auto_keeps_what_measures_best_and_says_what_it_tried() -> None:
    request = Request(to=AUTO, budget=Budget.parse("2500B"))
    made = choose_method(load_source(SOURCE, request), request)
    assert {row.method for row in made.tried} == set(methods.fittable())
    fitted = [row for row in made.tried if row.error is not None]
    assert made.error == min(row.error for row in fitted if row.error is not None)
    assert all(row.bytes is not None and row.bytes <= 2500 for row in fitted)
    assert all(row.reason for row in made.tried if row.error is None)
    assert made.compressed.method == min(fitted, key=lambda row: row.error or 0).method
    assert adaptzip.compress(SOURCE, to=AUTO, budget="2500B").method == made.compressed.method


def test_auto_for_an_error_keeps_the_smallest_file() -> None:
    request = Request(to=AUTO, max_error=0.3)
    made = choose_method(load_source(SOURCE, request), request)
    assert made.size == min(row.bytes for row in made.tried if row.bytes is not None)
    assert made.error <= 0.3


def fake(monkeypatch: pytest.MonkeyPatch, errors: dict[str, float]) -> list[str]:
    """Let `compare` forecast these errors; the list gets the methods that are fitted all the same."""
    rows = tuple(Forecast(name, {}, 1000, 10, error, {}) for name, error in errors.items())
    monkeypatch.setattr(choosing, "compare", lambda *_: PlanReport(rows, (Refusal("none", "no basis"),), 9999))
    fitted: list[str] = []
    real = running.run

    def run(job: Any, *rest: Any) -> Any:
        fitted.append(job.method.name)
        return real(job, *rest)

    monkeypatch.setattr(choosing, "run", run)
    return fitted


def test_auto_does_not_fit_what_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fake(monkeypatch, {REFERENCE: 0.2, "loretta": 0.99})
    request = Request(to=AUTO, budget=Budget.parse("4000B"))
    made = choose_method(load_source(SOURCE, request), request)
    assert fitted == [REFERENCE]
    assert [(row.method, bool(row.reason)) for row in made.tried] == [
        ("none", True), (REFERENCE, False), ("loretta", True),
    ]  # fmt: skip


def test_auto_fits_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fake(monkeypatch, {REFERENCE: 0.2, "loretta": 0.001})
    request = Request(to=AUTO, budget=Budget.parse("4000B"))
    choose_method(load_source(SOURCE, request), request)
    assert sorted(fitted) == ["loretta", REFERENCE]


def test_the_reference_keeps_to_the_size_and_says_nothing() -> None:
    request = Request(to="loretta", max_error=0.3, allocate="uniform", ranks={"l.0": 1}, options={"rank": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = reference_at(load_source(SOURCE, request), 2000, request)
    assert made is not None
    assert made.compressed.method == REFERENCE
    assert 0.97 * 2000 < made.size <= 2000
    assert made.compressed == adaptzip.compress(SOURCE, budget="2000B") or made.size == writer.size(
        adaptzip.compress(SOURCE, budget="2000B")
    )
    assert reference_at(load_source(SOURCE, request), 100, request) is None


# The plan file


@pytest.fixture
def path(tmp_path: Path, report: PlanReport) -> Path:
    write_plan(tmp_path / "plan.json", report, budget="2500B", max_error=None)
    return tmp_path / "plan.json"


def test_a_plan_comes_back_from_its_file(path: Path, report: PlanReport) -> None:
    plan = read_plan(path)
    assert (plan.method, plan.budget, plan.max_error, plan.allocate) == (report.best.method, "2500B", None, None)
    assert plan.options == report.best.options
    assert plan.ranks == (report.best.ranks or None)
    values = json.loads(path.read_text())
    assert len(values["table"]) == len(report.forecasts)
    assert {row["method"] for row in values["refused"]} == {row.method for row in report.refusals}
    check_modules(path, plan.ranks or {}, SOURCE.modules)


def test_following_a_plan_gives_what_it_says(path: Path) -> None:
    plan = read_plan(path)
    compressed = adaptzip.compress(SOURCE, to=plan.method, budget=plan.budget, ranks=plan.ranks, **plan.options)
    predicted = json.loads(path.read_text())["predicted"]
    assert writer.size(compressed) <= 2500
    assert compressed.provenance.relative_error == pytest.approx(predicted["relative_error"], rel=0.3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "blue"}, "key 'colour' is unknown"),
        ({"schema": 2}, "schema is 2, expected 1"),
        ({"method": "magic"}, "method is 'magic', expected one of"),
        ({"method": None}, "method is None"),
        ({"method": REFERENCE, "options": {"colour": 1}}, "options has 'colour'"),
        ({"options": []}, "options is []".replace("[", r"\[")),
        ({"budget": 7}, "budget is 7, expected a size"),
        ({"budget": "many"}, "budget 'many' is not a positive amount"),
        ({"max_error": 2}, "max_error is 2, expected a number between 0 and 1"),
        ({"max_error": True}, "max_error is true"),
        ({"allocate": "magic"}, "allocation 'magic' is unknown"),
        ({"ranks": {"l.0": 1.5}}, "ranks has 1.5 for 'l.0', expected a whole number"),
        ({"ranks": {"l.0": -1}}, "ranks has -1 for 'l.0'"),
        ({"ranks": [1]}, "ranks is "),
    ],
)
def test_a_plan_that_was_edited_wrongly(change: dict[str, Any], said: str, path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=said) as caught:
        read_plan(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"method": "svd", "method": "svd"}', "\x00"])
def test_what_is_no_plan(content: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"plan\.json"):
        read_plan(path)


def test_a_module_that_the_adapter_lacks() -> None:
    with pytest.raises(UsageError, match=r"plan.json: ranks names the module 'l.9'"):
        check_modules("plan.json", {"l.9": 1}, SOURCE.modules)


def test_a_single_method_refuses_with_its_own_error() -> None:
    needy = next(name for name in methods.fittable() if methods.load_fittable(name).default_basis == "base")
    with pytest.raises(RefusedError):
        choosing.forecast(SOURCE, Request(to=needy, budget=Budget.parse("2500B")))
