"""`adaptzip extract`: limits, what it says, and that the error it prints is that of the files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.cases.live_models import llama
from tests.cases.tuned_models import tensors_of, tune
from tests.cli.cli_cases import refused, run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tune(tmp_path_factory.mktemp("pair"), lambda: llama(tie_word_embeddings=False, hidden_size=32))


def words(pair: tuple[Path, Path], output: Path, *more: str) -> tuple[str | Path, ...]:
    return "extract", "--base", pair[0], "--tuned", pair[1], "-o", output, *more


def error_of(pair: tuple[Path, Path], source: Path, folder: Path) -> float:
    """Of the matrices of the model with the extracted adapter merged, by their difference from the tuned one's."""
    assert run("merge", source, "--base", pair[0], "-o", folder).code == 0
    base, tuned, found = map(tensors_of, (*pair, folder))
    names = [name for name, tensor in tuned.items() if tensor.ndim == 2]
    assert all(torch.equal(found[name], tensor) for name, tensor in tuned.items() if name not in names)
    lost = sum(float((found[name] - tuned[name]).double().square().sum()) for name in names)
    return math.sqrt(lost / sum(float((tuned[name] - base[name]).double().square().sum()) for name in names))


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("a", ["--rank", "2"]),
        ("a", ["--rank", "3", "--dtype", "bfloat16"]),
        ("a", ["--max-error", "0.2"]),
        ("a", ["--budget", "20KB"]),
        ("a.adz", []),
        ("a.adz", ["--max-error", "0.2"]),
        ("a.adz", ["--budget", "20%"]),
        ("a.adz", ["--rank", "2", "--lossless"]),
    ],
)
def test_the_error_that_is_printed_is_that_of_the_files(
    output: str, more: list[str], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    made = tmp_path / output
    values = run(*words(pair, made, *more, "--json")).json
    true = error_of(pair, made, tmp_path / "merged")
    assert values["error"] == pytest.approx(true, rel=2e-3)
    if "--max-error" in more:
        assert 0.17 < true <= 0.2
    if "--budget" in more:
        limit = 20_000 if more[-1] == "20KB" else 0.2 * (pair[1] / "model.safetensors").stat().st_size
        assert 0.7 * limit < values["bytes"] <= limit
    planned = run(*words(pair, tmp_path / f"other-{output}", *more, "--json", "-n")).json
    assert planned == values | {"path": str(tmp_path / f"other-{output}"), "dry_run": True}
    assert not (tmp_path / f"other-{output}").exists()


def test_what_it_says(pair: tuple[Path, Path], tmp_path: Path) -> None:
    made = run(*words(pair, tmp_path / "a", "--rank", "full"))
    assert made.err.startswith(f"wrote {tmp_path / 'a'}  ")
    assert made.err.endswith(" as peft  (9 modules, 3 extras, error 0.0000)\n")
    refused(run(*words(pair, tmp_path / "a")), 2, "a: exists already", "-f")


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("a", ["--lossless"], "--lossless is for a .adz"),
        ("a.adz", ["--as", "peft"], "--as is for the files of a dialect"),
        ("a.adz", ["--lossless", "--budget", "1%"], "--lossless keeps factors as they are"),
        ("a", ["--rank", "many"], "--rank many: expected a number or full"),
        ("a", ["--budget", "50k"], "the budget of convert is of bytes on disk"),
    ],
)
def test_options_that_do_not_fit(
    output: str, more: list[str], message: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    refused(run(*words(pair, tmp_path / output, *more)), 2, message)


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_read_is_never_written_into(which: int, pair: tuple[Path, Path]) -> None:
    for output in (pair[which], pair[which] / "a", pair[which] / "a.adz", pair[which].parent):
        refused(run(*words(pair, output, "-f")), 2, f"{output}: the output would ")


def test_limits_that_cannot_hold(pair: tuple[Path, Path], tmp_path: Path) -> None:
    refused(run(*words(pair, tmp_path / "a", "--rank", "1", "--max-error", "0.1")), 1, "the relative error is 0.9")
    refused(run("extract", "--base", pair[0], "--tuned", pair[0], "-o", tmp_path / "a"), 1, "is the same model as")
