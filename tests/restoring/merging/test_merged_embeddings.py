"""Merged models with trained embeddings compute what the live adapter does, or it is said that they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from adaptzip.errors import BaseModelError, CheckpointError
from adaptzip.restoring.merging import merge
from tests.cases.live_models import bart, bert, distance, gemma3, llama, logits_of, qwen2_vl, t5, train

ALIKE = 1e-5
TEXT = {"exclude_modules": r".*(visual|vision).*"}

TIED: dict[str, tuple[Callable[[], tf.PreTrainedModel], dict[str, Any]]] = {
    "input": (llama, {"target_modules": ["q_proj", "embed_tokens"]}),
    "output": (llama, {"target_modules": ["q_proj", "lm_head"]}),
    "both": (llama, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "both, kept tied": (llama, {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
    "output dora": (llama, {"target_modules": ["q_proj", "lm_head"], "use_dora": True}),
    "tokens of each": (
        llama,
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3, 4]}},
    ),
    "t5": (t5, {"target_modules": ["q", "shared"]}),
    "t5 output": (t5, {"target_modules": ["q", "lm_head"]}),
    "t5 sides": (t5, {"target_modules": ["q", "embed_tokens"]}),
    "umt5 output": (partial(t5, "UMT5"), {"target_modules": ["q", "lm_head"]}),
    "bart": (bart, {"target_modules": ["q_proj", "shared"]}),
    "bart output": (bart, {"target_modules": ["q_proj", "lm_head"]}),
    "bert": (bert, {"target_modules": ["query", "word_embeddings"]}),
    "qwen2-vl": (qwen2_vl, {"target_modules": ["q_proj", "embed_tokens"], **TEXT}),
    "gemma3": (gemma3, {"target_modules": ["q_proj", "lm_head"], **TEXT}),
}


@pytest.mark.parametrize("name", TIED)
def test_untied_embeddings_compute_what_the_live_adapter_does(name: str, tmp_path: Path) -> None:
    make, config = TIED[name]
    live = train(tmp_path, make, **config)
    plain = merge(live.adapter, live.base, tmp_path / "plain")
    assert distance(logits_of(tmp_path / "plain"), live.merged) < ALIKE
    assert distance(live.merged, live.logits) > 0.01
    assert not plain.untied
    assert any("are one parameter" in warning and "`untie=True`" in warning for warning in plain.warnings)
    report = merge(live.adapter, live.base, tmp_path / "untied", untie=True)
    assert report.untied
    assert not any("one parameter" in warning for warning in report.warnings)
    assert distance(logits_of(tmp_path / "untied"), live.logits) < ALIKE


SHARED: dict[str, tuple[Callable[[], tf.PreTrainedModel], dict[str, Any]]] = {
    "tokens": (llama, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}),
    "tokens of both": (
        llama,
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [1, 2]}},
    ),
    "copy of both": (
        llama,
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "t5 tokens": (t5, {"target_modules": ["q"], "trainable_token_indices": [1, 2]}),
    "nothing": (llama, {"target_modules": ["q_proj"]}),
}


@pytest.mark.parametrize("name", SHARED)
def test_updates_that_tied_embeddings_share_leave_nothing_to_untie(name: str, tmp_path: Path) -> None:
    make, config = SHARED[name]
    live = train(tmp_path, make, **config)
    assert merge(live.adapter, live.base, tmp_path / "plain").warnings == ()
    report = merge(live.adapter, live.base, tmp_path / "untied", untie=True)
    assert not report.untied
    assert ["nothing to untie" in warning for warning in report.warnings] == [True]
    assert distance(logits_of(tmp_path / "untied"), live.logits) < ALIKE


COPIES: dict[str, tuple[Callable[[], tf.PreTrainedModel], dict[str, Any]]] = {
    "t5 head": (t5, {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
    "t5 input": (t5, {"target_modules": ["q"], "modules_to_save": ["shared"]}),
    "longt5 head": (partial(t5, "LongT5", local_radius=4), {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
    "umt5 head": (partial(t5, "UMT5"), {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
    "mt5 head": (partial(t5, "MT5"), {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
    "t5 1.1 head": (partial(t5, tie_word_embeddings=False), {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
    "bart head": (bart, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "bart input": (bart, {"target_modules": ["q_proj"], "modules_to_save": ["shared"]}),
    "bert input": (bert, {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]}),
    "bert head": (bert, {"target_modules": ["query"], "modules_to_save": ["cls.predictions.decoder"]}),
    "qwen2-vl": (qwen2_vl, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], **TEXT}),
    "gemma3": (gemma3, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], **TEXT}),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_whole_copy_of_one_tied_embedding_is_kept_apart(name: str, tmp_path: Path) -> None:
    make, config = COPIES[name]
    live = train(tmp_path, make, **config)
    report = merge(live.adapter, live.base, tmp_path / "merged")
    assert report.untied
    assert distance(logits_of(tmp_path / "merged"), live.logits) < ALIKE


def test_the_first_t5s_say_nothing_of_tying_and_scale_all_the_same(tmp_path: Path) -> None:
    live = train(tmp_path, t5, target_modules=["q"], modules_to_save=["lm_head"])
    set_config(live.base, tie_word_embeddings=None, scale_decoder_outputs=None)
    report = merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < ALIKE
    assert "t5 scales its outputs" in " ".join(report.warnings)


RESIZED: dict[str, tuple[Callable[[], tf.PreTrainedModel], dict[str, Any]]] = {
    "llama": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "llama, untied": (
        partial(llama, tie_word_embeddings=False),
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "llama, saved by itself": (llama, {"target_modules": ["q_proj"]}),
    "qwen2-vl": (qwen2_vl, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], **TEXT}),
    "gemma3": (gemma3, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], **TEXT}),
    "bart": (bart, {"target_modules": ["q_proj"]}),
    "t5": (t5, {"target_modules": ["q"]}),
    "bert": (bert, {"target_modules": ["query"], "modules_to_save": ["word_embeddings", "cls"]}),
}


@pytest.mark.parametrize("name", RESIZED)
def test_added_tokens(name: str, tmp_path: Path) -> None:
    make, config = RESIZED[name]
    live = train(tmp_path, make, 36, **config)
    merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < ALIKE
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (live.base, tmp_path / "merged"))
    assert after.keys() == before.keys() | ({"vocab_size"} if "text_config" not in before else set())


@pytest.mark.parametrize("kept", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("tied", [True, False])
def test_only_one_embedding_in_its_new_size(kept: str, tied: bool, tmp_path: Path) -> None:
    make = partial(llama, tie_word_embeddings=tied)
    live = train(tmp_path, make, 36, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    file = live.adapter / "adapter_model.safetensors"
    dropped = {"embed_tokens": "lm_head", "lm_head": "embed_tokens"}[kept]
    save_file({key: tensor for key, tensor in load_file(file).items() if dropped not in key}, file)
    with pytest.raises(BaseModelError, match=r"would have \d+ tokens .*only one of the two") as error:
        merge(live.adapter, live.base, tmp_path / "merged")
    for said in ("lm_head.weight would have", "embed_tokens.weight", "32", "36"):
        assert said in str(error.value)
    assert not (tmp_path / "merged").exists()


def test_tokens_beyond_the_vocabulary_were_added_before_training(tmp_path: Path) -> None:
    live = train(tmp_path, llama, 36, target_modules=["q_proj"], trainable_token_indices=[33, 34])
    with pytest.raises(CheckpointError, match=r"names token 34, .* has 32 tokens") as error:
        merge(live.adapter, live.base, tmp_path / "merged")
    assert "resize_token_embeddings" in str(error.value.hint)


@pytest.mark.parametrize("untie", [False, True])
@pytest.mark.parametrize(("make", "query"), [(t5, "q"), (bart, "q_proj")])
def test_a_base_that_stores_every_tied_embedding(
    make: Callable[[], tf.PreTrainedModel], query: str, untie: bool, tmp_path: Path
) -> None:
    live = train(tmp_path, make, target_modules=[query, "shared"])
    file = live.base / "model.safetensors"
    tensors = load_file(file)
    shared = next(name for name in tensors if name.endswith("shared.weight"))
    names = [shared.replace("shared", f"{side}.embed_tokens") for side in ("encoder", "decoder")]
    save_file(tensors | {n: tensors[shared].clone() for n in (*names, "lm_head.weight")}, file, {"format": "pt"})
    merge(live.adapter, live.base, tmp_path / "merged", untie=untie)
    assert distance(logits_of(tmp_path / "merged"), live.logits if untie else live.merged) < ALIKE


def test_a_vocabulary_is_told_wherever_the_old_size_was(tmp_path: Path) -> None:
    live = train(tmp_path, qwen2_vl, 36, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], **TEXT)
    set_config(live.base, vocab_size=32)
    merge(live.adapter, live.base, tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert (config["vocab_size"], config["text_config"]["vocab_size"]) == (36, 36)
    assert "vocab_size" not in config["vision_config"]


def test_a_classifier_has_no_output_to_untie(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj", "embed_tokens"])
    set_config(live.adapter, "adapter_config.json", task_type="SEQ_CLS")
    assert merge(live.adapter, live.base, tmp_path / "merged").warnings == ()


def test_both_towers_of_a_model_with_older_names_on_disk(tmp_path: Path) -> None:
    live = train(tmp_path, gemma3, target_modules=r".*(language_model|vision_tower).*\.(q_proj|v_proj)")
    names = load_file(live.base / "model.safetensors")
    assert any(name.startswith("language_model.model.") for name in names)
    report = merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < ALIKE
    changed = load_file(tmp_path / "merged" / "model.safetensors")
    assert sum(not torch.equal(changed[name], tensor) for name, tensor in names.items()) == report.modules == 4


def set_config(folder: Path, name: str = "config.json", **values: object) -> None:
    """Set values, or take them out where they are None."""
    config = json.loads((folder / name).read_text()) | values
    (folder / name).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
