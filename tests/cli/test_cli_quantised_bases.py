"""`adaptzip merge --dequantise` and `--requantise`."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from adaptzip.restoring.exporting import export
from tests.cases.base_folders import MODULE, adapter
from tests.cases.quantised_weights import CASES, write_quantised
from tests.cli.cli_cases import listing, refused, run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    export(adapter(), tmp_path / "adapter", as_="peft")
    return tmp_path / "adapter"


@pytest.mark.parametrize(("option", "case"), [("--dequantise", "nf4"), ("--requantise", "blocks")])
def test_what_is_said(option: str, case: str, source: Path, tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES[case])
    words = ("merge", source, "--base", tmp_path / "base", "-o", tmp_path / "merged", option)
    planned = run(*words, "--dry-run", "--json").json
    assert planned["rounding"] is None
    done = run(*words)
    assert done.code == 0
    said, wrote = done.err.splitlines()
    assert said.startswith(f"{option[2:]}d: rounding keeps 99.")
    assert f"least in {MODULE}: 99." in said
    assert wrote.startswith("wrote ")
    again = run(*words, "-f", "--json").json
    assert again["rounding"]["how"] == f"{option[2:]}d"
    assert again["rounding"]["worst"] == MODULE
    assert 0.99 < again["rounding"]["kept"] < 1
    assert planned["files"] == again["files"] == sorted(listing(tmp_path / "merged"))
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert planned["bytes"] == sum(tensor.nbytes for tensor in weights.values())


def test_refused_with_the_way_out(source: Path, tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["nf4"])
    done = run("merge", source, "--base", tmp_path / "base", "-o", tmp_path / "merged")
    refused(done, 3, "is quantised (bitsandbytes)", "as its base with --dequantise")


def test_both_at_once(source: Path, tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["blocks"])
    words = ("merge", source, "--base", tmp_path / "base", "-o", tmp_path / "merged", "--dequantise", "--requantise")
    refused(run(*words), 2, "dequantised or requantised, not both")


def test_check(source: Path, tmp_path: Path) -> None:
    write_quantised(tmp_path / "base", CASES["nf4"])
    run("merge", source, "--base", tmp_path / "base", "-o", tmp_path / "merged", "--dequantise")
    words = ("check", tmp_path / "merged", "--base", tmp_path / "base", "--adapter")
    assert run(*words, source, "--json").json["verdict"] == "exact"
    assert run(*words, f"{source}:2").code == 1
