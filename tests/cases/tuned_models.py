"""Pairs of a base model and what training all of its parameters made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor

from adaptzip.models.folder import BaseModel
from tests.cases.base_folders import write_weights
from tests.cases.live_models import SIZES

MOE = {"vocab_size": 32, "num_local_experts": 3, "num_key_value_heads": 1}


def gpt2() -> tf.PreTrainedModel:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, **ends))


def mixtral() -> tf.PreTrainedModel:
    return tf.MixtralForCausalLM(tf.MixtralConfig(**MOE, **SIZES))


def granite_moe() -> tf.PreTrainedModel:
    return tf.GraniteMoeForCausalLM(tf.GraniteMoeConfig(**MOE, **SIZES))


def gpt_oss() -> tf.PreTrainedModel:
    return tf.GptOssForCausalLM(tf.GptOssConfig(head_dim=8, **MOE, **SIZES))


def llama4() -> tf.PreTrainedModel:
    sizes = {**MOE, **SIZES, "head_dim": 8, "intermediate_size_mlp": 24, "pad_token_id": 0}
    return tf.Llama4ForCausalLM(tf.Llama4TextConfig(**sizes))


def tune(folder: Path, make: Callable[[], tf.PreTrainedModel], **saving: Any) -> tuple[Path, Path]:
    """(base, tuned), saved by transformers."""
    tf.set_seed(0)
    model = make()
    base, tuned = folder / "base", folder / "tuned"
    model.save_pretrained(base, **saving)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(tuned, **saving)
    return base, tuned


def write_pair(
    folder: Path, before: Mapping[str, Tensor], after: Mapping[str, Tensor], config: str = "{}"
) -> tuple[Path, Path]:
    """(base, tuned) of given tensors."""
    paths = folder / "base", folder / "tuned"
    for path, tensors in zip(paths, (before, after), strict=True):
        path.mkdir()
        (path / "config.json").write_text(config)
        write_weights(path / "model.safetensors", tensors)
    return paths


def tensors_of(folder: Path) -> dict[str, Tensor]:
    model = BaseModel.open(folder)
    return {name: model.read(name) for name in model.tensors}


def largest_difference(one: Path, other: Path) -> float:
    """Between tensors of the same names, which both must have."""
    a, b = tensors_of(one), tensors_of(other)
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
