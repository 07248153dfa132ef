"""Tiny base models on disk, adapters that PEFT trained on them, and what PEFT's own merge makes of both."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.cases.tiny_peft import randomise

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
_VISION = {**SIZES, "image_size": 8, "patch_size": 4}


def llama(**more: Any) -> tf.PreTrainedModel:
    return tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=40, num_key_value_heads=2, **{**SIZES, **more}))


def tied_llama() -> tf.PreTrainedModel:
    return llama(tie_word_embeddings=True)


def gpt2() -> tf.PreTrainedModel:
    return tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def _bert_config() -> tf.BertConfig:
    return tf.BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=3, **SIZES)


def bert() -> tf.PreTrainedModel:
    return tf.BertForSequenceClassification(_bert_config())


def bert_encoder() -> tf.PreTrainedModel:
    return tf.BertModel(_bert_config())


def mixtral() -> tf.PreTrainedModel:
    config = tf.MixtralConfig(vocab_size=40, num_key_value_heads=2, num_local_experts=3, **SIZES)
    return tf.MixtralForCausalLM(config)


def qwen_moe() -> tf.PreTrainedModel:
    sizes = {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 12, "num_experts": 3}
    return tf.Qwen2MoeForCausalLM(tf.Qwen2MoeConfig(vocab_size=40, num_key_value_heads=2, **sizes, **SIZES))


def gpt_oss() -> tf.PreTrainedModel:
    sizes = {
        **SIZES,
        "intermediate_size": 16,
        "head_dim": 8,
        "num_local_experts": 3,
        "num_key_value_heads": 2,
    }
    return tf.GptOssForCausalLM(tf.GptOssConfig(vocab_size=40, **sizes))


def resnet() -> tf.PreTrainedModel:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return tf.ResNetForImageClassification(tf.ResNetConfig(**sizes))


def vit() -> tf.PreTrainedModel:
    return tf.ViTForImageClassification(tf.ViTConfig(**_VISION))


def videomae() -> tf.PreTrainedModel:
    return tf.VideoMAEForVideoClassification(tf.VideoMAEConfig(num_frames=4, **_VISION))


def wav2vec2() -> tf.PreTrainedModel:
    sizes = {"conv_dim": (8, 8), "conv_kernel": (3, 2), "conv_stride": (2, 2), "num_feat_extract_layers": 2}
    config = tf.Wav2Vec2Config(vocab_size=16, num_conv_pos_embedding_groups=2, **sizes, **SIZES)
    return tf.Wav2Vec2ForCTC(config)


@dataclass(frozen=True)
class Case:
    """A model and a LoRA configuration.

    Attributes:
        make: makes the base model.
        load: the class that loads it for training; None: the class that `make` gives.
        config: arguments of PEFT's LoraConfig.
        load_arguments: arguments of `from_pretrained`, such as num_labels.
    """

    make: Callable[[], tf.PreTrainedModel]
    config: Mapping[str, Any]
    load: Any = None
    load_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """The folders of a case.

    Attributes:
        base: the base model.
        adapter: the adapter.
        expected: the tensors of PEFT's merged model as transformers saves them.
        config: its config.json.
    """

    base: Path
    adapter: Path
    expected: Mapping[str, Tensor]
    config: Mapping[str, Any]


def build(
    case: Case,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    file_dtype: torch.dtype | None = None,
    safe: bool = False,
    shard_size: str = "1GB",
) -> Built:
    """Save the base in `dtype`, train an adapter, save it in `file_dtype`, and merge both with PEFT."""
    tf.set_seed(0)
    base, adapter, merged = folder / "base", folder / "adapter", folder / "expected"
    model = case.make().to(dtype)
    load = case.load or type(model)
    model.save_pretrained(base, max_shard_size=shard_size)
    arguments = {"dtype": dtype, **case.load_arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = get_peft_model(load.from_pretrained(base, **arguments), LoraConfig(**{"r": 4, **case.config}))
        randomise(trained)
        trained.save_pretrained(adapter)
        if file_dtype is not None:
            weights = adapter / "adapter_model.safetensors"
            tensors = {key: value.to(file_dtype) for key, value in load_file(weights).items()}
            save_file(tensors, weights, metadata={"format": "pt"})
        wrapped = PeftModel.from_pretrained(load.from_pretrained(base, **arguments), adapter)
        wrapped.merge_and_unload(safe_merge=safe).save_pretrained(merged)
    return Built(base, adapter, tensors_of(merged), json.loads((merged / "config.json").read_text()))


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model folder."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def assert_same_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Fail unless both have the same tensors, bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
