"""A path of one's own machine goes into a file with a warning, and `--base-name` puts a name in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adaptzip
from adaptzip.errors import AdaptzipWarning
from formats import decoder
from tests.cli.cli_cases import CONFIG, Result, make_adapter, run

LOCAL = "/home/ann/secret-project/llama"
NAME = "org/llama"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "local", config={**CONFIG, "base_model_name_or_path": LOCAL})


def warned(result: Result) -> None:
    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if LOCAL in line]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("warning: ")
    assert "--base-name" in lines[0]


def clean(result: Result) -> None:
    assert result.code == 0, result.err
    assert "warning" not in result.err


@pytest.mark.parametrize("words", [[], ["--lossless"], ["--to", "vblora", "--budget", "14%"], ["-n"]])
def test_compress(words: list[str], local: Path) -> None:
    out = local.parent / "out.adz"
    warned(run("compress", local, "-o", out, *words))
    if "-n" in words:
        return
    assert adaptzip.open(out).meta.base_model == LOCAL
    clean(run("compress", local, "-o", out, "-f", "--base-name", NAME, *words))
    made = adaptzip.open(out)
    assert made.meta.base_model == made.meta.config["base_model_name_or_path"] == NAME
    assert b"secret-project" not in out.read_bytes()
    clean(run("export", out, "-o", local.parent / "back"))
    assert json.loads((local.parent / "back" / "adapter_config.json").read_text())["base_model_name_or_path"] == NAME


def test_a_lossless_file_keeps_all_but_the_name_and_says_so(local: Path) -> None:
    out, back = local.parent / "out.adz", local.parent / "back"
    clean(run("compress", local, "--lossless", "--base-name", NAME, "-o", out))
    shown = run("inspect", out, "--json").json
    assert (shown["lossless"], shown["renamed"], shown["base_model"]) == (True, True, NAME)
    assert "not as its source calls it" in run("inspect", out).out
    decoder.decode(out.read_bytes())
    clean(run("export", out, "-o", back))
    weights = "adapter_model.safetensors"
    assert (back / weights).read_bytes() == (local / weights).read_bytes()
    expected = (local / "adapter_config.json").read_text().replace(LOCAL, NAME)
    assert (back / "adapter_config.json").read_text() == expected
    assert run("verify", out, "--against", local).code == 0
    clean(run("compress", back, "--lossless", "-o", local.parent / "plain.adz"))
    assert run("inspect", local.parent / "plain.adz", "--json").json["renamed"] is False


@pytest.mark.parametrize("words", [[], ["--portable", "--drop-extras"], ["-n"]])
def test_export(words: list[str], local: Path) -> None:
    out = local.parent / "out"
    warned(run("export", local, "-o", out, *words))
    clean(run("export", local, "-o", out, "-f", "--base-name", NAME, *words))
    if "-n" not in words:
        assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == NAME


def test_quiet_is_quiet_and_a_name_needs_no_word(local: Path, adapter: Path) -> None:
    assert run("export", local, "-o", local.parent / "a", "-q") == Result(0, "", "")
    clean(run("compress", adapter, "--lossless"))
    clean(run("export", adapter, "-o", adapter.parent / "b"))


def test_names_that_are_none_are_refused(local: Path) -> None:
    for words in (["compress", "--lossless"], ["export"]):
        result = run(*words, local, "-o", local.parent / "out", "--base-name", "a\nb")
        assert result.code == 2
        assert "is no name" in result.err


def test_the_library_warns_and_renames(local: Path, tmp_path: Path) -> None:
    with pytest.warns(AdaptzipWarning, match="secret-project"):
        made = adaptzip.compress(local, tmp_path / "a.adz", budget="20%")
    with pytest.warns(AdaptzipWarning, match="secret-project"):
        adaptzip.export(made, tmp_path / "a")
    adaptzip.export(made, tmp_path / "b", base_name=NAME)
    assert "secret" not in (tmp_path / "b" / "adapter_config.json").read_text()
    assert adaptzip.compress(local, budget="20%", base_name=NAME).meta.base_model == NAME


@pytest.mark.parametrize("path", [LOCAL, r"C:\Users\Zoë\llama", "/home/zoë/llama"])
@pytest.mark.parametrize("dialect", ["peft", "mlx"])
def test_a_path_is_told_of_where_it_is_written(path: str, dialect: str, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "a", config={**CONFIG, "base_model_name_or_path": path})
    told = run("export", source, "-o", tmp_path / "out", "--as", dialect, "--drop-extras")
    assert "which whoever gets the file can read" in told.err


def test_a_path_that_no_file_has_needs_no_word(tmp_path: Path) -> None:
    config = {**CONFIG, "base_model_name_or_path": "/home/ann/sd/text_encoder"}
    clean(
        run(
            "export",
            make_adapter(tmp_path / "a", config=config),
            "-o",
            tmp_path / "out",
            "--as",
            "kohya",
            "--drop-extras",
        )
    )
    assert b"/home/ann" not in (tmp_path / "out/lora.safetensors").read_bytes()
