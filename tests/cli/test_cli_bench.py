"""`bench`: the table, the plot, and what stands in their way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

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
    refused(run("bench", adapter, "-b", "50k"), 2, "counts parameters")
    refused(run("bench", adapter, "-b", "many"), 2, "budget 'many'")
    refused(run("bench", adapter, "--to", "magic"), 2, "method 'magic' is unknown")
    refused(run("bench", adapter / "missing"), 2, "missing")


def test_bench_says_what_drawing_needs(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(
        run("bench", adapter, "--plot", adapter.with_name("a.png")), 3, "matplotlib", "pip install 'adaptzip[plots]'"
    )
