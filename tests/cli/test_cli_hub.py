"""Base models that the command line names as on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adaptzip
from adaptzip.errors import CheckpointError
from tests.cases.hub_server import COMMIT, cached
from tests.cases.merge_cases import assert_same_tensors, tensors_of
from tests.cli.cli_cases import run


@pytest.fixture
def snapshot(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base model in a cache, as some/base."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return cached(tmp_path / "cache", "some/base", {path.name: path.read_bytes() for path in base.iterdir()})


@pytest.mark.parametrize("name", ["some/base", "hf://some/base", "hf://some/base@main"])
def test_merging(name: str, adapter: Path, base: Path, snapshot: Path) -> None:
    done = run("merge", adapter, "--base", name, "-o", "merged")
    assert done.code == 0, done.err
    told = name.removeprefix("hf://")
    assert done.err.splitlines()[0] == f"fetching {told} from the Hub"
    assert done.err.count("fetching") == 1
    assert run("merge", adapter, "--base", base, "-o", "plain").code == 0
    assert_same_tensors(tensors_of(Path("merged")), tensors_of(Path("plain")))
    provenance = json.loads(Path("merged/adaptzip_merge.json").read_text())["base"]
    assert (provenance["name"], provenance["repository"], provenance["revision"]) == ("some/base", "some/base", COMMIT)
    card = Path("merged/README.md").read_text()
    assert f"`some/base`, commit `{COMMIT}`" in card
    assert "base_model:\n- some/base\n" in card
    assert not any(path.is_symlink() for path in Path("merged").iterdir())
    assert run("check", "merged", "--base", name, "--adapter", adapter).code == 0
    asked = run("check", "merged")
    assert f"--base some/base@{COMMIT} --adapter my-adapter" in asked.err


def test_other_commands(adapter: Path, snapshot: Path) -> None:
    assert run("merge", adapter, "--base", snapshot, "-o", "tuned", "-q").code == 0
    made = run("extract", "--base", "some/base", "--tuned", "tuned", "--rank", "4", "-o", "again", "--as", "peft")
    assert made.code == 0, made.err
    assert "fetching some/base from the Hub" in made.err
    assert json.loads(Path("again/adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    built = run("basis", "build", adapter, "--base", "some/base", "-k", "4", "-o", "a.basis")
    assert built.code == 0, built.err
    told = run("inspect", adapter, "--base", "some/base", "-q")
    assert (told.code, told.err) == (0, "")


def test_what_cannot_be_fetched(adapter: Path, snapshot: Path) -> None:
    done = run("merge", adapter, "--base", "some/other", "-o", "merged")
    assert done.code == 2
    asked, error, hint = done.err.splitlines()
    assert asked == "fetching some/other from the Hub"
    assert error.startswith("error: some/other: no such folder, the Hub cannot be asked for it")
    assert hint.startswith("hint: connect to the network")
    assert not Path("merged").exists()


def test_a_folder_comes_first(adapter: Path, base: Path, snapshot: Path) -> None:
    base.rename("some-base")
    Path("some").mkdir()
    Path("some-base").rename("some/base")
    done = run("merge", adapter, "--base", "some/base", "-o", "merged")
    assert done.code == 0
    assert "fetching" not in done.err


@pytest.fixture
def shared(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The adapter in a cache, as some/adapter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return cached(tmp_path / "cache", "some/lora", {path.name: path.read_bytes() for path in adapter.iterdir()})


@pytest.mark.parametrize("name", ["some/lora", "hf://some/lora", "hf://some/lora@main"])
def test_adapters_are_sources(name: str, adapter: Path, shared: Path) -> None:
    done = run("compress", name, "--budget", "25%")
    assert done.code == 0, done.err
    assert done.err.splitlines()[0] == f"fetching {name.removeprefix('hf://')} from the Hub"
    assert Path("lora.adz").read_bytes() == adaptzip.compress(adapter, budget="25%").to_bytes()
    assert adaptzip.diff(name, adapter).same
    assert run("diff", name, adapter, "--max-error", "0").code == 0
    assert run("inspect", name, "-q").code == 0
    many = run("compress", name, adapter, "--budget", "25%", "--output-dir", "out")
    assert many.code == 0, many.err
    assert sorted(path.name for path in Path("out").glob("*.adz")) == ["lora.adz", "my-adapter.adz"]


def test_an_adapter_that_is_nowhere(adapter: Path, shared: Path) -> None:
    done = run("compress", "some/other")
    assert done.code == 2
    assert "error: some/other: no such folder, the Hub cannot be asked for it" in done.err
    assert done.last == "hint: connect to the network, unset HF_HUB_OFFLINE, or give its folder"
    with pytest.raises(CheckpointError, match="some/other: no such folder"):
        adaptzip.read("some/other")
    several = run("compress", "some/other", adapter, "--output-dir", "out")
    assert several.code == 2
    assert several.last == "1 done, 1 failed"
