"""`plan`, `compress --plan`, `--to auto`, and what `compress` says of the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptzip.methods import REFERENCE, fittable, load_fittable
from tests.cli.cli_cases import MODULES, listing, refused, run

NEEDY = next(name for name in fittable() if load_fittable(name).default_basis == "base")
OTHER = "loretta"
SIZE = "3000B"


@pytest.fixture
def plan(adapter: Path) -> Path:
    path = adapter.with_name("plan.json")
    result = run("plan", adapter, "--budget", SIZE, "--to", REFERENCE, "-o", path)
    assert result.code == 0, result.err
    return path


def test_plan_writes_nothing_and_names_all_methods(adapter: Path) -> None:
    before = listing(adapter.parent)
    result = run("plan", adapter, "--budget", SIZE)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split() == ["method", "size", "ratio", "parameters", "error", "options"]
    assert {line.split()[0].rstrip(":") for line in lines[1:]} == set(fittable())
    assert any(line.startswith(f"{NEEDY}: ") and "base" in line for line in lines)
    assert listing(adapter.parent) == before


def test_plan_shows_some_methods_alone(adapter: Path) -> None:
    values = run("plan", adapter, "--budget", SIZE, "--to", REFERENCE, "--to", OTHER, "--json").json
    assert {row["method"] for row in values["rows"]} == {REFERENCE, OTHER}
    assert values["budget"] == SIZE
    assert values["path"] is None


def test_plan_fails_where_nothing_can_be_done(adapter: Path) -> None:
    result = run("plan", adapter, "--budget", "300B", "--to", REFERENCE)
    assert result.code == 1
    assert "300 bytes cannot be reached" in result.out
    assert result.err.splitlines()[0].startswith("error: no method can do it")


def test_plan_refuses_what_makes_no_sense(adapter: Path) -> None:
    refused(run("plan", adapter, "--budget", "many"), 2, "budget 'many'")
    refused(run("plan", adapter, "--to", "magic"), 2, "method 'magic' is unknown")
    refused(run("plan", adapter, "-s", "rank=2"), 2, "-s sets an option of one method")
    refused(run("plan", adapter, "--to", REFERENCE, "-s", "colour=2"), 2, "has no option 'colour'")
    refused(run("plan", adapter, "--allocate", "magic"), 2, "magic")
    refused(run("plan", adapter / "missing"), 2, "missing")
    refused(run("plan", adapter, "-o", adapter.parent / "no" / "plan.json"), 2, "does not exist")


def test_plan_takes_a_method_s_options(adapter: Path) -> None:
    (row,) = run("plan", adapter, "--budget", "5000B", "--to", OTHER, "-s", "order=rep", "--json").json["rows"]
    assert row["options"]["order"] == "rep"


def test_a_plan_is_written_and_not_over_another(adapter: Path, plan: Path) -> None:
    values = json.loads(plan.read_text())
    assert (values["method"], values["budget"]) == (REFERENCE, SIZE)
    assert values["ranks"].keys() <= set(MODULES)
    refused(run("plan", adapter, "--to", REFERENCE, "-o", plan), 2, "exists already")
    assert run("plan", adapter, "--to", REFERENCE, "-o", plan, "-f").code == 0
    result = run("plan", adapter, "--to", REFERENCE, "-o", plan, "-f", "-q")
    assert (result.out, result.err) == ("", "")


def test_compress_follows_a_plan(adapter: Path, plan: Path) -> None:
    values = run("compress", adapter, "--plan", plan, "--json").json
    assert values["method"] == REFERENCE
    assert values["bytes"] <= 3000


def test_compress_follows_an_edited_plan(adapter: Path, plan: Path) -> None:
    edited = json.loads(plan.read_text()) | {"ranks": {MODULES[0]: 1}, "budget": None, "max_error": None}
    plan.write_text(json.dumps(edited))
    values = run("compress", adapter, "--plan", plan, "--json").json
    assert values["kept_modules"] == 1
    again = run("compress", adapter, "--plan", plan, "-n", "--json").json
    assert again["kept_modules"] == 1
    refused(run("compress", adapter, "--plan", plan, "--max-error", "0.4", "-f"), 2, "--max-error cannot be given")
    refused(run("compress", adapter, "--plan", plan, "--effort", "fast", "-f"), 2, "--effort cannot be given")
    edited |= {"method": OTHER, "options": {"order": "rep"}, "ranks": None, "max_error": 0.4}
    plan.write_text(json.dumps(edited))
    values = run("compress", adapter, "--plan", plan, "-f", "--json").json
    assert (values["method"], values["options"]["order"]) == (OTHER, "rep")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "the key 'colour' is unknown"),
        ({"ranks": {"nowhere": 1}}, "ranks names the module 'nowhere'"),
        ({"method": OTHER, "options": {"rank": "two"}}, "options: rank is 'two', expected whole number or none"),
        ({"method": OTHER, "options": {"rank": True}}, "options: rank is 'true'"),
        ({"budget": "many"}, "budget 'many'"),
    ],
)
def test_a_wrong_plan_is_refused_by_its_key(change: dict[str, object], said: str, adapter: Path, plan: Path) -> None:
    plan.write_text(json.dumps(json.loads(plan.read_text()) | change))
    before = listing(adapter.parent)
    refused(run("compress", adapter, "--plan", plan), 2, str(plan), said)
    assert listing(adapter.parent) == before


@pytest.mark.parametrize(
    "words", [["--to", "svd"], ["-b", "2%"], ["--allocate", "energy"], ["-s", "a=1"], ["--lossless"]]
)
def test_what_a_plan_decides_is_not_given_twice(words: list[str], adapter: Path, plan: Path) -> None:
    refused(run("compress", adapter, "--plan", plan, *words), 2, "cannot be given with --plan")


def test_a_plan_that_is_not_there(adapter: Path) -> None:
    refused(run("compress", adapter, "--plan", adapter.with_name("none.json")), 2, "none.json")


def test_auto_shows_what_it_chose_from(adapter: Path) -> None:
    result = run("compress", adapter, "--to", "auto", "--budget", SIZE)
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert lines[0].startswith("method")
    assert lines[-1].startswith("wrote ")
    assert any(line.startswith(f"{NEEDY}: ") for line in lines)
    values = run("compress", adapter, "--to", "auto", "--budget", SIZE, "-f", "--json").json
    assert {row["method"] for row in values["tried"]} == set(fittable())
    best = min(row["relative_error"] for row in values["tried"] if row["relative_error"] is not None)
    assert values["relative_error"] == pytest.approx(best)


def test_auto_takes_no_method_s_options(adapter: Path) -> None:
    refused(run("compress", adapter, "--to", "auto", "-s", "rank=2"), 2, "--to auto tries all")


def test_a_dry_run_of_auto_shows_the_plan(adapter: Path) -> None:
    result = run("compress", adapter, "--to", "auto", "--budget", SIZE, "-n")
    assert "would write" in result.out
    assert NEEDY in result.out


def test_the_reference_stands_beside_other_methods(adapter: Path) -> None:
    words = ("compress", adapter, "--to", OTHER, "--budget", SIZE, "-f")
    found = run(*words, "--json").json
    beside = found["reference"]
    assert beside["method"] == REFERENCE
    assert beside["bytes"] <= found["bytes"]
    assert beside["wins"] == (beside["relative_error"] < found["relative_error"])
    line = run(*words).err.splitlines()[-2]
    assert line.startswith(f"{REFERENCE} reaches error ")
    assert ("wins" in line) == beside["wins"]
    assert run(*words, "--no-reference", "--json").json["reference"] is None
    assert len(run(*words, "--no-reference").err.splitlines()) == 1


def test_the_reference_needs_no_row_of_its_own(adapter: Path) -> None:
    assert run("compress", adapter, "--budget", SIZE, "--json").json["reference"] is None


def test_what_a_basis_captures_is_said(adapter: Path) -> None:
    basis = adapter.with_name("a.basis")
    assert run("basis", "build", adapter, "-o", basis, "-q").code == 0
    words = ("compress", adapter, "--to", NEEDY, "--basis", basis, "--max-error", "0.5")
    result = run(*words)
    assert result.code == 0, result.err
    assert result.err.splitlines()[0] == "the basis captures 100 % of the update's energy"
    assert run(*words, "-f", "--json").json["captured_energy"] == pytest.approx(1)
