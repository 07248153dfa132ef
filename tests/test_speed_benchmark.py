"""The speed benchmark: every task at the smallest size, pairs and their bars, exponents, tables and results."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from benchmarks import results, speed, speed_growth, work_check
from benchmarks.speed_lines import Finding, Line, Machine, render, watched
from benchmarks.speed_runs import Sample, Spread, beyond, in_turn, ratios, spread, timed
from benchmarks.speed_tasks import TASKS


def test_every_timed_task_does_its_work(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("x.adz", "zstd", "x.safetensors", "again", "rewritten", "made")}
    packed, tensors, again, folder = {"archive": files["x.adz"]}, files["x.safetensors"], files["again"], files["made"]
    module = {"names": ["layers.1.q_proj"]}
    jobs: dict[str, dict[str, Any]] = {
        "make_adapter": {"output": folder, "modules": 2, "width": 64, "rank": 4},
        "compress": {"source": folder, "output": files["x.adz"], "max_error": 0.1},
        "zstd": {"source": folder, "output": files["zstd"]},
        "decode": {**packed, "dtype": "float16"},
        "keep_tensors": {**packed, "output": tensors},
        "save_again": {"source": tensors, "output": f"{tensors}.again"},
        "export": {**packed, "output": again},
        "rewrite": {"source": again, "output": files["rewritten"], "durable": True},
        "one_module": {**packed, **module},
        "two_tensors": {"source": tensors, **module},
    }
    assert set(TASKS) - set(jobs) == {"bank", "warm_kernels"}
    found = {}
    for name, options in jobs.items():
        task = TASKS[name](**options)
        found[name] = task.tell(task.work())
    assert found["decode"] == {"numbers": 2 * 2 * 4 * 64}
    assert found["compress"]["relative_error"] <= 0.1
    modules = adaptzip.read(folder).modules.keys()
    assert modules == adaptzip.read(files["rewritten"]).modules.keys() == adaptzip.read(again).modules.keys()


def test_sides_run_in_turn_and_their_pairs_are_compared() -> None:
    order: list[str] = []
    assert in_turn({name: partial(order.append, name) for name in "ab"}, 2) == {
        "a": [None] * 2,
        "b": [None] * 2,
    }
    assert order == ["a", "b", "b", "a"]
    ours, theirs = [Sample(2.0, 3.0), Sample(6.0, 6.0)], [Sample(1.0, 1.0), Sample(2.0, 2.0)]
    assert ratios(ours, theirs) == (Spread(2.25, 2.5, 2.75), Spread(3.0, 3.0, 3.0))
    assert beyond(ours, theirs) == [Sample(1.0, 2.0), Sample(4.0, 4.0)]
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0)
    assert timed(lambda: 7)[1] == 7


def test_speed_bars() -> None:
    even, high = Spread(0.9, 1.0, 1.1), Spread(1.1, 1.2, 1.3)
    assert Line("x", even, high, bar=1.0, moonshot=0.5).met
    assert not Line("x", even, high, bar=1.0, judged="both").met
    assert not Line("x", even, high, bar=1.0, judged="processor").met
    assert Line("x", even, bar=1.0, least=True).met
    assert not Line("x", even, bar=1.1, least=True).met
    assert Line("x", high).met
    assert not Line("x", Spread(*[float("nan")] * 3), bar=1.0).met


def test_speed_tables_tell_bars_and_a_busy_machine(tmp_path: Path) -> None:
    lines = [
        Line("decode / peer", Spread(0.5, 0.6, 0.7), Spread(1.0, 1.0, 1.0), bar=1.5, moonshot=0.7),
        Line("output", Spread(0.1, 0.2, 0.3), unit="GB/s", bar=0.3, least=True),
        Line("seconds", Spread(1234.0, 1234.0, 1234.0), unit="s"),
    ]
    found = Finding("1, 2 layers, 5 pairs", "decode", lines, ["so."], Machine(0.1, 2.0, 0.2, 0.0, 3.0))
    text = render([found])
    assert "| 1. decode / peer, machine BUSY | 0.6 (0.5 to 0.7) | 1 | 1.5 | 0.7 | met, the moonshot too |" in text
    assert "| at least 0.3 |  | NOT met |" in text
    assert "| 1,234 s |" in text
    assert "- Row 1: so." in text
    assert "| 1. decode, 2 layers, 5 pairs | 0.1 | 2.0 | 20% | 0% | 3 s | BUSY |" in text
    assert not found.met
    results.add(tmp_path / "rows", found)
    assert results.read(tmp_path / "rows", Finding.read) == [found]
    assert "BUSY" not in render([replace(found, machine=Machine(0.1, 2.0, None, None, 3.0))])


def test_a_measured_row_knows_how_the_machine_was() -> None:
    found = watched("12, 5 pairs", "threads", lambda: ([], ["nothing."]))
    assert found.notes == ["nothing."]
    assert found.machine.others is None or 0 <= found.machine.others <= 1


def test_exponents_leave_fixed_costs_out() -> None:
    sizes = [1.0, 10.0, 100.0, 1000.0]
    assert speed_growth.exponent(sizes, [5 + 3 * (size - 1) for size in sizes]) == pytest.approx(1)
    assert speed_growth.exponent(sizes, [5 + 3 * (size - 1) ** 1.5 for size in sizes]) == pytest.approx(1.5)
    assert isnan(speed_growth.exponent(sizes, [5.0, 4.0, 5.0, 6.0]))


def test_speed_keeps_rows_apart_by_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    keys = [part.key for part in speed.parts(speed.options_of(["--layers", "8,2", "--rows", "11,1,6", "--quick"]))]
    assert keys == ["1, 2 layers, 5 pairs", "1, 8 layers, 5 pairs", "6, 8 layers, 5 pairs", "11, 5 pairs, quick"]
    assert [p.key for p in speed.parts(speed.options_of(["--shape", "sdxl"]))] == [
        "3, SDXL, 5 pairs",
        "4, SDXL, 5 pairs",
    ]
    for wrong in (
        ["--rows", "14"],
        ["--shape", "sdxl", "--rows", "1"],
        ["--write", "--rows", "1"],
        ["--write", "--quick"],
    ):
        with pytest.raises(SystemExit):
            speed.options_of(wrong)
    assert "--rows takes numbers among 3, 4" in capsys.readouterr().err


@pytest.mark.slow
def test_speed_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--layers",
        "1",
        "--pairs",
        "1",
        "--rows",
        "1,2,3,4,5,6",
        "--device",
        "cuda",
        "--results",
        str(tmp_path / "r"),
    ]
    speed.main(words)
    first = capsys.readouterr().out
    assert "zstd -19" in first
    speed.main(words)
    assert capsys.readouterr().out.partition("\n")[2] == first.partition("\n")[2]


def test_work_that_grew_is_found() -> None:
    found = {"decode": Spread(1.5, 1.6, 1.7), "compress": Spread(1.3, 1.4, 1.6), "new": Spread(9.0, 9.0, 9.0)}
    kept = {"decode": 1.0, "compress": 1.0, "gone": 1.0}
    assert work_check.grown(found, kept) == ["decode"]
    text = work_check.render(found, kept)
    assert "| decode | 1.6 (1.5 to 1.7) | 1 | 1.60 | GREW |" in text
    assert "| compress | 1.4 (1.3 to 1.6) | 1 | 1.40 |  |" in text
    assert "| new | 9 (9 to 9) |  |  |  |" in text


def test_every_watched_job_works_and_has_a_number(tmp_path: Path) -> None:
    jobs = work_check.jobs(tmp_path)
    assert jobs.keys() == json.loads(work_check.KEPT.read_text(encoding="utf-8")).keys()
    assert len(jobs["decode 500 modules"]().modules) == 500
    assert jobs["decode a small adapter"]().modules
    assert work_check.calibration() == work_check.calibration()
