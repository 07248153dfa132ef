"""Adapters whose modules have the names of transformers 4 or 5, on bases that are stored under either."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.errors import BaseModelError
from adaptzip.models.spellings import STORED_SPELLINGS
from adaptzip.restoring.merging import merge
from tests.cases import tiny_peft

WEIGHTS = "adapter_model.safetensors"
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PATCHES = {"image_size": 16, "patch_size": 8}
SEGMENTS: dict[str, Any] = {
    "patch_sizes": [3, 3], "strides": [2, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
    "decoder_hidden_size": 8,
}  # fmt: skip
RESNET: dict[str, Any] = {
    "embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4, "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip
DETR: dict[str, Any] = {
    "encoder_hidden_dim": 16, "encoder_in_channels": [8] * 3, "encoder_ffn_dim": 24, "encoder_attention_heads": 2,
    "d_model": 16, "num_queries": 5, "decoder_in_channels": [16] * 3, "decoder_ffn_dim": 24, "decoder_layers": 2,
    "decoder_attention_heads": 2, "num_denoising": 0,
}  # fmt: skip
EXPERTS = {"vocab_size": 32, "num_key_value_heads": 1, "num_local_experts": 3}

MODELS: dict[str, Callable[[], Any]] = {
    "beit": lambda: tf.BeitForImageClassification(tf.BeitConfig(**VISION, **PATCHES)),
    "dinov2": lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(mlp_ratio=2, **VISION, **PATCHES)),
    "ast": lambda: tf.ASTForAudioClassification(tf.ASTConfig(max_length=32, num_mel_bins=32, **VISION)),
    "swin": lambda: tf.SwinForImageClassification(
        tf.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2)
    ),
    "segformer": lambda: tf.SegformerForSemanticSegmentation(
        tf.SegformerConfig(num_encoder_blocks=2, depths=[1, 2], sr_ratios=[2, 1], hidden_sizes=[8, 16], **SEGMENTS)
    ),
    "rt detr": lambda: tf.RTDetrForObjectDetection(
        tf.RTDetrConfig(backbone_config=tf.RTDetrResNetConfig(**RESNET), **DETR)
    ),
    "gpt neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(vocab_size=32, **VISION)),
    "phimoe": lambda: tf.PhimoeForCausalLM(tf.PhimoeConfig(**VISION, **EXPERTS)),
}


def trained(name: str, folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An adapter of all linear layers beside its base: the base's stored tensors, and what PEFT merges.

    Files that transformers 5 saves have the names of transformers 4.
    """
    tiny_peft.set_seed(0)
    model = MODELS[name]()
    model.save_pretrained(folder / "base")
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    tiny_peft.randomise(tuned)
    tuned.save_pretrained(folder / "adapter", save_embedding_layers=False)
    tuned.merge_and_unload().save_pretrained(folder / "theirs")
    return (load_file(folder / kind / "model.safetensors") for kind in ("base", "theirs"))  # type: ignore[return-value]


@pytest.mark.parametrize("name", MODELS)
def test_names_of_transformers_5(name: str, tmp_path: Path) -> None:
    base, theirs = trained(name, tmp_path)
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert sum(not torch.equal(base[key], tensor) for key, tensor in ours.items()) >= 4


def test_the_head_that_files_call_embed_out(tmp_path: Path) -> None:
    tiny_peft.set_seed(0)
    model = MODELS["gpt neox"]()
    model.save_pretrained(tmp_path / "base")
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"]))
    tiny_peft.randomise(tuned)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tuned.merge_and_unload().save_pretrained(tmp_path / "theirs")
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "ours")
    ours, theirs = (load_file(tmp_path / kind / "model.safetensors") for kind in ("ours", "theirs"))
    assert torch.equal(ours["embed_out.weight"], theirs["embed_out.weight"])


def test_names_that_no_table_has_are_told_beside_those_of_the_base(tmp_path: Path) -> None:
    trained("ast", tmp_path)
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    stored = {key.replace(".attention.attention.query", ".attn.qry"): tensor for key, tensor in tensors.items()}
    save_file(stored, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"lacks 2 .*\.q_proj.*similar there: .*\.attn\.qry") as caught:
        merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "ours")
    assert "transformers 4 and 5 name some models' modules otherwise" in str(caught.value.hint)


# How transformers 4 called what transformers 5 has in memory.
OLD = {
    "beit": (("beit.layers.", "beit.encoder.layer."), *STORED_SPELLINGS[1][1:]),
    "swin": STORED_SPELLINGS[2],
    "phimoe": STORED_SPELLINGS[4],
    "segformer": (("stages.0.blocks.0.", "encoder.block.0.0."), ("stages.1.blocks.1.", "encoder.block.1.1."),
                  ("stages.1.blocks.0.", "encoder.block.1.0."), *STORED_SPELLINGS[7]),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_names_of_transformers_4_on_a_base_that_has_those_of_5(name: str, tmp_path: Path) -> None:
    trained(name, tmp_path)
    tiny_peft.set_seed(0)
    tuned = PeftModel.from_pretrained(MODELS[name](), tmp_path / "adapter")
    theirs = tuned.merge_and_unload().state_dict()
    tiny_peft.set_seed(0)
    stored = {key: tensor.clone() for key, tensor in MODELS[name]().state_dict().items()}
    save_file(stored, tmp_path / "base" / "model.safetensors")
    tensors, old = load_file(tmp_path / "adapter" / WEIGHTS), {}
    for key, tensor in tensors.items():
        for new, earlier in OLD[name]:
            key = key.replace(new, earlier)
        old[key] = tensor
    assert old.keys() != tensors.keys()
    save_file(old, tmp_path / "adapter" / WEIGHTS)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["target_modules"] = sorted({key.partition(".lora_")[0].rpartition(".")[2] for key in old})
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "ours")
    for key, tensor in load_file(tmp_path / "ours" / "model.safetensors").items():
        assert torch.equal(tensor, theirs[key]), key


def test_experts_by_the_names_of_transformers_4(tmp_path: Path) -> None:
    """PEFT fuses the factors of experts' own projections by its table."""
    sides = {"w1": (24, 16), "w3": (24, 16), "w2": (16, 24)}
    places = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}": shape
        for layer in range(2) for expert in range(3) for part, shape in sides.items()
    }  # fmt: skip
    places |= {f"model.layers.{layer}.self_attn.q_proj": (16, 16) for layer in range(2)}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for place, (out, width) in places.items():
        tensors[f"base_model.model.{place}.lora_A.weight"] = torch.randn(2, width, generator=generator)
        tensors[f"base_model.model.{place}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    (tmp_path / "adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / WEIGHTS)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", *sides]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    tiny_peft.mixtral().save_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = PeftModel.from_pretrained(tiny_peft.mixtral(), tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "theirs")
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "ours")
    ours, theirs, base = (load_file(tmp_path / kind / "model.safetensors") for kind in ("ours", "theirs", "base"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert sum(not torch.equal(base[key], tensor) for key, tensor in ours.items()) == len(places)
