"""`adaptzip merge`: what it says of tied embeddings and tokenizers, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cases.live_models import distance, llama, logits_of, train
from tests.cli.cli_cases import listing, refused, run


def test_tied_embeddings(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj", "lm_head"])
    plain = run("merge", live.adapter, "--base", live.base, "-o", tmp_path / "plain")
    assert plain.code == 0
    assert plain.out == ""
    warning, wrote = plain.err.splitlines()
    assert warning.startswith("warning: model.embed_tokens.weight, lm_head.weight are one parameter")
    assert wrote.startswith("wrote ")
    apart = run("merge", live.adapter, "--base", live.base, "-o", tmp_path / "apart", "--untie", "--json")
    assert apart.code == 0
    assert (apart.json["untied"], apart.json["warnings"], apart.json["tokenizer"]) == (True, [], None)
    assert distance(logits_of(tmp_path / "apart"), live.logits) < 1e-5
    assert distance(logits_of(tmp_path / "plain"), live.logits) > 0.01


def test_whose_tokenizer_it_is(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj"])
    (live.base / "tokenizer.json").write_text("base")
    words = ("merge", live.adapter, "--base", live.base, "-o", tmp_path / "merged", "-f")
    assert run(*words).err.startswith("the tokenizer is the base's\nwrote ")
    (live.adapter / "tokenizer.json").write_text("own")
    assert run(*words).err.startswith("the tokenizer is the adapter's\nwrote ")
    assert (tmp_path / "merged" / "tokenizer.json").read_text() == "own"
    assert run(*words, "--json").json["tokenizer"] == "adapter"
    assert run(*words, "--quiet").err == ""


def test_a_dry_run_says_the_same(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj", "lm_head"])
    (live.base / "tokenizer.json").write_text("base")
    (live.base / "chat_template.jinja").write_text("base")
    (live.adapter / "tokenizer.json").write_text("own")
    words = ("merge", live.adapter, "--base", live.base, "-o", tmp_path / "merged", "--json")
    planned = run(*words, "--dry-run").json
    assert not (tmp_path / "merged").exists()
    done = run(*words).json
    same = ("files", "modules", "extras", "tokenizer", "untied", "warnings")
    assert {key: planned[key] for key in same} == {key: done[key] for key in same}
    assert done["files"] == sorted(listing(tmp_path / "merged"))
    assert len(done["warnings"]) == 1


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_a_head_without_its_embedding(json: list[str], tmp_path: Path) -> None:
    live = train(tmp_path, llama, 36, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    file = live.adapter / "adapter_model.safetensors"
    save_file({key: t for key, t in load_file(file).items() if "embed_tokens" not in key}, file)
    result = run("merge", live.adapter, "--base", live.base, "-o", tmp_path / "merged", *json)
    assert result.code == 2
    assert "lm_head.weight would have 36 tokens and model.embed_tokens.weight 32" in result.err
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def test_an_empty_head(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj"])
    file = live.adapter / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.score.weight": torch.empty(0)}, file)
    refused(run("merge", live.adapter, "--base", live.base, "-o", tmp_path / "m"), 2, "score.weight is empty", "gather")
