"""`adaptzip combine`, and `adaptzip merge` of several adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import adaptzip
from tests.cases.live_models import llama, train
from tests.cli.cli_cases import listing, load_weights, make_adapter, make_base, make_tensors, refused, run


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two adapters whose updates are alone."""
    tensors = {key: tensor for key, tensor in make_tensors().items() if "lora_" in key}
    other = {key: tensor.flip(0) for key, tensor in tensors.items()}
    return make_adapter(tmp_path / "a", tensors), make_adapter(tmp_path / "b", other)


def updates(path: Path) -> dict[str, torch.Tensor]:
    return {name: factors.delta() for name, factors in adaptzip.read(path).modules.items()}


def test_a_number_after_a_colon_is_a_weight(two: tuple[Path, Path], tmp_path: Path) -> None:
    result = run("combine", f"{two[0]}:0.5", f"{two[1]}:-2", "-o", tmp_path / "one", "--json")
    assert result.code == 0, result.err
    assert (result.json["sources"], result.json["method"], result.json["dialect"]) == (2, "cat", "peft")
    first, second, made = (updates(path) for path in (*two, tmp_path / "one"))
    assert all(torch.allclose(made[name], 0.5 * first[name] - 2 * second[name], atol=1e-5) for name in made)


def test_a_name_with_a_colon_is_a_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    odd = two[1].rename(tmp_path / "b:0.5")
    assert run("combine", two[0], odd, "-o", tmp_path / "one").code == 0
    first, second, made = (updates(path) for path in (two[0], odd, tmp_path / "one"))
    assert all(torch.allclose(made[name], first[name] + second[name], atol=1e-5) for name in made)


def test_a_budget_makes_it_smaller_in_either_kind(two: tuple[Path, Path], tmp_path: Path) -> None:
    total = sum((path / "adapter_model.safetensors").stat().st_size for path in two)
    packed = run("combine", *two, "-o", tmp_path / "one.adz", "--budget", "50%", "--json")
    assert packed.code == 0, packed.err
    assert packed.json["bytes"] == (tmp_path / "one.adz").stat().st_size <= total // 2
    assert 0 < packed.json["error"] < 1
    cut = run("combine", *two, "-o", tmp_path / "one", "--max-error", "0.9", "--json")
    assert cut.code == 0, cut.err
    whole = run("combine", *two, "-o", tmp_path / "whole", "--json").json
    assert cut.json["bytes"] < whole["bytes"]
    assert (0 < cut.json["error"] <= 0.9, whole["error"]) == (True, 0)


def test_lossless_keeps_the_sum(two: tuple[Path, Path], tmp_path: Path) -> None:
    assert run("combine", *two, "-o", tmp_path / "one.adz", "--lossless").code == 0
    first, second, made = (updates(path) for path in (*two, tmp_path / "one.adz"))
    assert all(torch.allclose(made[name], first[name] + second[name], atol=1e-5) for name in made)


def test_a_dry_run_writes_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    before = listing(tmp_path)
    for output in ("one", "one.adz"):
        result = run("combine", *two, "-o", tmp_path / output, "-n")
        assert result.code == 0, result.err
        assert result.out.startswith(f"would write {tmp_path / output}  ")
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{a}:x", "{b}", "-o", "{out}"), "'x' is no weight"),
        (("{a}:inf", "{b}", "-o", "{out}"), "'inf' is no weight"),
        (("{a}", "{b}", "-o", "{out}.adz", "--as", "peft"), "--as is for the files of a dialect"),
        (("{a}", "{b}", "-o", "{out}", "--lossless"), "--lossless is for a .adz"),
        (("{a}", "{b}", "-o", "{out}", "--method", "ties"), "needs a density"),
        (("{a}", "{b}", "-o", "{out}", "--rank", "3"), "cat tells the rank by itself"),
        (("{a}", "nowhere", "-o", "{out}"), "nowhere"),
        (("{a}", "{b}", "-o", "{a}", "-f"), "would replace its source"),
    ],
)
def test_what_is_at_fault_is_named(words: tuple[str, ...], said: str, two: tuple[Path, Path], tmp_path: Path) -> None:
    filled = [word.format(a=two[0], b=two[1], out=tmp_path / "out") for word in words]
    refused(run("combine", *filled), 2, said)


def test_several_are_merged_and_taken_away_again(two: tuple[Path, Path], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    words = ("--base", base, "-o", tmp_path / "merged")
    assert run("merge", f"{two[0]}:0.5", two[1], *words).code == 0
    merged, plain = load_weights(tmp_path / "merged"), load_weights(base)
    first, second = (updates(path) for path in two)
    for name in first:
        wanted = plain[f"{name}.weight"] + 0.5 * first[name] + second[name]
        assert torch.allclose(merged[f"{name}.weight"], wanted, atol=1e-5)
    back = ("--base", tmp_path / "merged", "-o", tmp_path / "back", "--subtract")
    assert run("merge", f"{two[0]}:0.5", two[1], *back).code == 0
    found = load_weights(tmp_path / "back")
    assert all(torch.allclose(found[name], tensor, atol=1e-5) for name, tensor in plain.items())


def test_a_weight_of_one_is_its_scale(two: tuple[Path, Path], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    assert run("merge", f"{two[0]}:0.25", "--base", base, "-o", tmp_path / "x", "--scale", "2").code == 0
    assert run("merge", two[0], "--base", base, "-o", tmp_path / "y", "--scale", "0.5").code == 0
    x, y = load_weights(tmp_path / "x"), load_weights(tmp_path / "y")
    assert all(torch.equal(x[name], tensor) for name, tensor in y.items())


def test_what_replaces_cannot_be_taken_away(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj"], modules_to_save=["norm"])
    words = ("merge", live.adapter, "--base", live.base, "-o", tmp_path / "x")
    refused(run(*words, "--subtract"), 3, "norm.weight cannot be taken away")
    refused(run(*words, "--method", "ties"), 2, "are for several adapters")
    refused(run("merge", live.adapter, live.adapter, *words[2:], "--config", "x.json"), 2, "of one adapter")


def test_the_first_that_brings_a_tokenizer_lends_it(two: tuple[Path, Path], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (two[1] / "tokenizer.json").write_text("second")
    result = run("merge", *two, "--base", base, "-o", tmp_path / "merged", "--json")
    assert (result.code, result.json["tokenizer"]) == (0, "adapter")
    assert (tmp_path / "merged/tokenizer.json").read_text() == "second"
