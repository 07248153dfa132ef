"""Parts of a model that have other names in memory than on disk, or share a parameter, merged with what is trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import load_file

from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.restoring.merging import merge
from tests.cases.live_models import SIZES, Live, bert, distance, llama, logits_of, qwen2_vl, train

EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2}


def masked(kind: str) -> tf.PreTrainedModel:
    more = {"XLMRoberta": {"pad_token_id": 0}, "Albert": {"embedding_size": 8}}.get(kind, {})
    config = getattr(tf, f"{kind}Config")(vocab_size=32, max_position_embeddings=20, **{**SIZES, **more})
    return getattr(tf, f"{kind}ForMaskedLM")(config)


def mixture(kind: str) -> tf.PreTrainedModel:
    sizes = {**SIZES, "head_dim": 8} if kind == "GptOss" else SIZES
    config = getattr(tf, f"{kind}Config")(vocab_size=32, **EXPERTS, **sizes)
    return getattr(tf, f"{kind}ForCausalLM")(config)


def llava() -> tf.PreTrainedModel:
    text = tf.LlamaConfig(vocab_size=32, num_key_value_heads=2, **SIZES)
    vision = tf.CLIPVisionConfig(image_size=8, patch_size=4, projection_dim=16, **SIZES)
    parts = {"text_config": text, "vision_config": vision, "tie_word_embeddings": False}
    return tf.LlavaForConditionalGeneration(tf.LlavaConfig(image_token_index=31, vision_feature_layer=-1, **parts))


def check_whole(live: Live, output: Path, model_class: Any) -> None:
    """Every tensor is as in PEFT's merge, and the files hold one tensor for each of the base's."""
    trained = PeftModel.from_pretrained(model_class.from_pretrained(live.base), live.adapter).merge_and_unload()
    merged = model_class.from_pretrained(output).state_dict()
    for name, expected in trained.state_dict().items():
        assert torch.allclose(merged[name], expected, atol=1e-6), name
    assert load_file(output / "model.safetensors").keys() == load_file(live.base / "model.safetensors").keys()


@pytest.mark.parametrize("kind", ["Bert", "XLMRoberta", "Albert"])
@pytest.mark.parametrize("tokens", [None, 40])
def test_the_bias_that_a_masked_head_and_its_decoder_share(kind: str, tokens: int | None, tmp_path: Path) -> None:
    live = train(tmp_path, partial(masked, kind), tokens, target_modules=["query"], bias="none" if tokens else "all")
    keys = load_file(live.adapter / "adapter_model.safetensors")
    assert any(key.endswith(".decoder.bias") for key in keys)
    assert merge(live.adapter, live.base, tmp_path / "merged").warnings == ()
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6


def test_a_decoder_that_is_trained_as_a_copy_has_its_own_bias(tmp_path: Path) -> None:
    live = train(tmp_path, bert, target_modules=["query"], modules_to_save=["decoder"])
    merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6


def test_modules_to_save_are_told_by_the_end_of_their_names(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2}
    tf.DistilBertForMaskedLM(tf.DistilBertConfig(**sizes)).save_pretrained(tmp_path / "base")
    load = partial(tf.DistilBertForSequenceClassification.from_pretrained, tmp_path / "base", num_labels=3)
    live = train(tmp_path / "trained", load, target_modules=["q_lin"], task_type="SEQ_CLS")
    merge(live.adapter, tmp_path / "base", tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6


@pytest.mark.parametrize(
    ("kind", "saved"), [("Mixtral", "experts"), ("GraniteMoe", "block_sparse_moe"), ("GptOss", "experts")]
)
def test_experts_that_are_trained_whole(kind: str, saved: str, tmp_path: Path) -> None:
    live = train(tmp_path, partial(mixture, kind), target_modules=["q_proj"], modules_to_save=[saved])
    merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6
    check_whole(live, tmp_path / "merged", getattr(tf, f"{kind}ForCausalLM"))


def test_experts_of_another_number_are_refused(tmp_path: Path) -> None:
    live = train(tmp_path, partial(mixture, "Mixtral"), target_modules=["q_proj"], modules_to_save=["experts"])
    other = {**EXPERTS, "num_local_experts": 4}
    tf.MixtralForCausalLM(tf.MixtralConfig(vocab_size=32, **other, **SIZES)).save_pretrained(tmp_path / "other")
    with pytest.raises(BaseModelError, match="experts' tensors for .* do not fit"):
        merge(live.adapter, tmp_path / "other", tmp_path / "merged")


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (qwen2_vl, {"target_modules": ["q_proj"], "modules_to_save": ["merger", "patch_embed"]}),
        (qwen2_vl, {"target_modules": ["q_proj", "patch_embed.proj"]}),
        (qwen2_vl, {"target_modules": ["q_proj"], "bias": "all"}),
        (llava, {"target_modules": r".*language_model.*q_proj|.*linear_1"}),
        (llava, {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["multi_modal_projector"]}),
        (llava, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ],
)
def test_parts_beside_the_layers(make: Callable[[], Any], config: dict[str, Any], tmp_path: Path) -> None:
    live = train(tmp_path, make, **config)
    merge(live.adapter, live.base, tmp_path / "merged")
    check_whole(live, tmp_path / "merged", type(make()))


def test_a_head_within_the_language_model_is_resized(tmp_path: Path) -> None:
    live = train(tmp_path, llava, 40, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6


def test_a_trained_layer_that_is_stored_transposed_keeps_its_shape(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    make = partial(tf.GPT2LMHeadModel, tf.GPT2Config(**sizes))
    live = train(tmp_path, make, target_modules=["c_fc"], modules_to_save=["c_attn"])
    merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6


@pytest.mark.parametrize("ranges", [[[1, 2], [0, 1]], [[0, 2], [1, 2]], [[0, 1]]])
def test_layers_that_are_repeated_or_reordered_are_refused(ranges: list[list[int]], tmp_path: Path) -> None:
    make = partial(llama, num_hidden_layers=2)
    live = train(tmp_path, make, target_modules=["q_proj"], layer_replication=ranges)
    with pytest.raises(RefusedError, match="layer_replication is"):
        merge(live.adapter, live.base, tmp_path / "merged")


def test_a_replication_that_changes_nothing(tmp_path: Path) -> None:
    make = partial(llama, num_hidden_layers=2)
    live = train(tmp_path, make, target_modules=["q_proj"], layer_replication=[[0, 2]])
    merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6
