"""`adaptzip merge` and `check` with a base model in GGUF."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cases.gguf_bases import write_base
from tests.cases.gguf_copies import opened
from tests.cases.oracle_models import Case, make
from tests.cli.cli_cases import refused, run


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("case"), targets=("q_proj", "up_proj"), r=2)


@pytest.fixture
def base(case: Case, tmp_path: Path) -> Path:
    return write_base(case.base, tmp_path / "base.gguf", kind="Q8_0")


def test_what_it_says(case: Case, base: Path, tmp_path: Path) -> None:
    words = ("merge", case.adapter, "--base", base, "-o", tmp_path / "out.gguf", "--requantise")
    planned = run(*words, "--dry-run", "--json").json
    assert not (tmp_path / "out.gguf").exists()
    merged = run(*words)
    tokenizer, kept, wrote = merged.err.splitlines()
    assert tokenizer == "the tokenizer is the base's"
    keeps = r"requantised: rounding keeps 99\.\d{4}% of the update, least in model\.layers\.\d\.\S+: 99\.\d{4}%"
    assert re.fullmatch(keeps, kept)
    assert wrote.startswith("wrote ")
    told = run(*words, "--json", "--force").json
    assert (told["bytes"], told["modules"]) == (planned["bytes"], planned["modules"])
    assert told["bytes"] == (tmp_path / "out.gguf").stat().st_size
    assert 0.99 < told["rounding"]["worst_kept"] <= told["rounding"]["kept"] < 1
    assert "adaptzip.merge" in opened(tmp_path / "out.gguf")[0]


def test_how_it_refuses(case: Case, base: Path, tmp_path: Path) -> None:
    words = ("merge", case.adapter, "--base", base, "-o", tmp_path / "out.gguf")
    plain = run(*words)
    assert plain.code == 3
    assert "base.gguf: is quantised: blk.0.attn_q.weight" in plain.err or "blk.0.ffn_up.weight" in plain.err
    assert "hint: --dequantise writes" in plain.err
    refused(run(*words, "--dequantise", "--requantise"), 2, "dequantised or requantised, not both")
    refused(run(*words[:-1], tmp_path / "out", "--dequantise"), 2, "a base in GGUF is merged into one file")
    refused(run(*words, "--dequantise", "--dry-run", "--untie"), 2, "--untie is for bases in folders")
    plain = run("merge", case.adapter, "--base", case.base, "-o", tmp_path / "out", "--requantise")
    refused(plain, 2, "is not quantised", "leave --requantise out")
    folder = run("merge", case.adapter, "--base", tmp_path, "-o", case.base.parent / "out")
    assert f"hint: `merge` takes the file itself, --base {base};" in folder.err


def test_check_refuses(case: Case, base: Path) -> None:
    for pair in ((base, case.base), (case.base, base)):
        found = run("check", pair[0], "--base", pair[1], "--adapter", case.adapter)
        refused(found, 2, "models in folders can be checked, and not those in GGUF")
