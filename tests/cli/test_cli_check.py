"""`adaptzip check`: what it prints, how it exits, and what `verify` says of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.cli_cases import MODULES, make_adapter, make_base, refused, run

WEIGHT = f"{MODULES[0]}.weight"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    adapter, base = make_adapter(folder / "adapter"), make_base(folder / "base")
    assert run("merge", adapter, "--base", base, "-o", folder / "merged").code == 0
    return folder


def test_yes(work: Path) -> None:
    words = ("check", work / "merged", "--base", work / "base", "--adapter", work / "adapter")
    result = run(*words)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "ok  bit for bit  (rule default: the sum rounded once, as PEFT's merge_and_unload; "
        "7 tensors changed, 0 as in the base)"
    ]
    assert WEIGHT in run(*words, "--verbose").out
    values = run(*words, "--json").json
    assert (values["verdict"], values["rule"], values["explanation"]) == ("exact", "default", None)
    assert values["adapters"] == [str(work / "adapter")]
    assert values["tensors"][0].keys() == {
        *("name", "kind", "verdict", "rule", "numbers", "differing", "ulps", "relative_error", "scale", "reason", "why")
    }
    assert run(*words, "--quiet").out == ""


def test_weights_and_scales(work: Path) -> None:
    two = ("--base", work / "base", "--adapter", f"{work / 'adapter'}:0.5", "--adapter", f"{work / 'adapter'}:0.25")
    assert run("merge", *(two[3], two[5]), *two[:2], "-o", work / "two").code == 0
    assert run("check", work / "two", *two).code == 0
    assert run("check", work / "merged", *two[:4], "--scale", 2).code == 0


def test_no(work: Path, tmp_path: Path) -> None:
    words = ("--base", work / "base", "--adapter", work / "adapter")
    result = run("check", work / "base", *words, "--json")
    assert result.code == 1
    assert result.json["explanation"] == "the adapter is not merged: all that it changes is as in the base"
    assert result.json["tensors"][0]["reason"] == "unmerged"
    tensors = load_file(work / "merged" / "model.safetensors")
    tensors[WEIGHT][2, 3] += 1
    (tmp_path / "config.json").write_bytes((work / "merged" / "config.json").read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    result = run("check", tmp_path, *words)
    assert result.code == 1
    assert f"{WEIGHT}: 1 of 3,072 numbers are other ones, the furthest at [2, 3]" in result.out
    assert result.last.startswith(f"error: {tmp_path}: is not {work / 'base'} with {work / 'adapter'} merged: ")


def test_what_it_needs(work: Path) -> None:
    refused(
        run("check", work / "merged", "--adapter", work / "adapter"),
        2,
        "needs --base DIR",
        "it says of itself: --base base --adapter adapter",
    )
    refused(run("check", work / "merged", "--base", work / "base"), 2, "needs --adapter SRC")


def test_verify_of_a_model(work: Path) -> None:
    for name in ("merged", "base"):
        refused(
            run("verify", work / name), 2, "is a whole model, expected a .adz file", f"adaptzip check {work / name}"
        )
    refused(run("verify", work / "adapter"), 2, "adapter")
