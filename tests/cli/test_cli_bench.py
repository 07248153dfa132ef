"""`bench`: the table, the plot, and what stands in their way."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from adaptzip.cli import _formats as formats
from adaptzip.methods import REFERENCE, fittable, load_fittable
from tests.cli.cli_cases import listing, refused, run

NEEDY = next(name for name in fittable() if load_fittable(name).default_basis == "base")


def test_bench_measures_and_keeps_nothing(adapter: Path) -> None:
    before = listing(adapter.parent)
    result = run("bench", adapter, "--to", REFERENCE, "--to", NEEDY, "-b", "60%", "-b", "40%")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["method", REFERENCE, REFERENCE]
    assert any(line.startswith("float16") for line in lines)
    assert any(line.startswith("int4") for line in lines)
    assert any(line.startswith(f"{NEEDY}: ") for line in lines)
    assert any("of extras" in line for line in lines)
    assert listing(adapter.parent) == before


def test_bench_draws(adapter: Path) -> None:
    plot = adapter.with_name("sizes.png")
    words = ("bench", adapter, "--to", REFERENCE, "-b", "60%", "--plot", plot)
    result = run(*words)
    assert result.code == 0, result.err
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert result.last.startswith(f"wrote {plot}  1 file of 1 method")
    refused(run(*words), 2, "exists already")
    assert run(*words, "-f", "--json").json["path"] == str(plot)


def test_bench_refuses_before_the_work(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptzip.reports.benching.run", lambda *_, **__: pytest.fail("it began to work"))
    refused(run("bench", adapter, "--plot", adapter.with_name("a.txt")), 2, "png, svg, pdf")
    refused(run("bench", adapter, "-b", "50k", "-b", "4kB"), 2, "some of the sizes count parameters and others bytes")
    refused(run("bench", adapter, "--params", "10k,4kB"), 2, "it does not count parameters")
    refused(run("bench", adapter, "-b", "many"), 2, "budget 'many'")
    refused(run("bench", adapter, "--to", "magic"), 2, "method 'magic' is unknown")
    refused(run("bench", adapter / "missing"), 2, "missing")


def test_bench_says_what_drawing_needs(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(
        run("bench", adapter, "--plot", adapter.with_name("a.png")), 3, "matplotlib", "pip install 'adaptzip[plots]'"
    )


def test_bench_counts_parameters(adapter: Path) -> None:
    found = run("bench", adapter, "--to", REFERENCE, "--params", "900,500", "--json").json
    assert found["unit"] == "parameters"
    assert [point["budget"] for point in found["points"]] == [900, 500]
    assert all(point["parameters"] <= point["budget"] for point in found["points"])
    plot = adapter.with_name("counted.svg")
    assert run("bench", adapter, "--to", REFERENCE, "--params", "900,500", "--plot", plot).code == 0
    assert "stored parameters" in plot.read_text()


@pytest.mark.parametrize(
    ("form", "first", "pattern"),
    [
        ("md", "| method | bytes | ratio | parameters | error | bound |", rf"^\| {REFERENCE} \| \d+ \|"),
        ("latex", r"\begin{tabular}{lrrrrr}", rf"^  {REFERENCE} & \d+ & "),
        ("csv", "method,bytes,ratio,parameters,error,bound", rf"^{REFERENCE},\d+,"),
    ],
)
def test_bench_prints_tables_for_others(adapter: Path, form: str, first: str, pattern: str) -> None:
    result = run("bench", adapter, "--to", REFERENCE, "-b", "60%", "--format", form)
    assert result.code == 0, result.err
    assert result.out.splitlines()[0] == first
    assert len(re.findall(pattern, result.out, re.MULTILINE)) == 1


def test_cells_are_escaped() -> None:
    head, rows = ["a", "b|c"], [["50 %", "x_1"]]
    assert "b\\|c" in formats.markdown(head, rows)
    assert "50 \\% & x\\_1 \\\\" in formats.latex(head, rows)
    assert formats.comma_separated(["a,b"], [['say "x"']]) == '"a,b"\n"say ""x"""'


def test_svgs_are_text_without_a_date(adapter: Path) -> None:
    plots = [adapter.with_name(f"{name}.svg") for name in "ab"]
    for plot in plots:
        assert run("bench", adapter, "--to", REFERENCE, "-b", "60%", "--plot", plot).code == 0
    assert plots[0].read_bytes() == plots[1].read_bytes()
    assert "<text" in plots[0].read_text()
    assert "date>" not in plots[0].read_text()
