"""Tiny models with PEFT adapters, made on the fly: what PEFT makes of an adapter is what is expected."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers import set_seed as set_seed

_SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def llama(**more: Any) -> Any:
    set_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=1, **{**_SIZES, **more}))


def bert() -> Any:
    set_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=32, max_position_embeddings=16, num_labels=3, **_SIZES))


def bert_tokens() -> Any:
    set_seed(0)
    names = {0: "O", 1: "NAME", 2: "PLACE"}
    config = BertConfig(vocab_size=32, max_position_embeddings=16, id2label=names, **_SIZES)
    return BertForTokenClassification(config)


def t5() -> Any:
    set_seed(0)
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def bart() -> Any:
    set_seed(0)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 24))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=32, d_model=16, max_position_embeddings=16, **sizes, **heads)
    )


def gpt2() -> Any:
    set_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def gpt_oss() -> Any:
    """Its experts lie as (experts, in, out), with biases declared between the weights."""
    set_seed(0)
    sizes = {**_SIZES, "num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 3}
    return GptOssForCausalLM(GptOssConfig(vocab_size=32, layer_types=["full_attention"] * 2, **sizes))


def mixtral() -> Any:
    set_seed(0)
    sizes = {**_SIZES, "num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(vocab_size=32, **sizes))


class Layers(nn.Module):
    """One of each kind of layer beside attention."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(10, 8)
        self.conv1 = nn.Conv1d(8, 6, 3)
        self.conv2 = nn.Conv2d(3, 6, (3, 2))
        self.conv3 = nn.Conv3d(2, 4, 2)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.lin = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lin(self.emb(x))
        return found


def layers() -> Any:
    set_seed(0)
    return Layers()


@dataclass(frozen=True)
class Trained:
    """An adapter that PEFT saved, and what PEFT's own merge makes of it.

    Attributes:
        folder: the adapter.
        base: the base model's tensors before.
        merged: its tensors after `merge_and_unload`.
    """

    folder: Path
    base: Mapping[str, Tensor]
    merged: Mapping[str, Tensor]

    def change(self, name: str) -> Tensor:
        return self.merged[name] - self.base[name]


def train(model: nn.Module, folder: Path, **config: Any) -> Trained:
    """Give `model` a LoRA with random numbers, save it into `folder`, and merge it."""
    base = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, LoraConfig(**config))
        randomise(wrapped)
        wrapped.save_pretrained(folder)
        merged = wrapped.merge_and_unload().state_dict()
    return Trained(folder, base, merged)


def randomise(model: nn.Module) -> None:
    """Stand in for training: every trainable tensor moves."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


Change = Callable[[dict[str, Any], dict[str, Tensor]], object]
"""What is done to a saved adapter's configuration and tensors."""


def changed(folder: Path, change: Change) -> None:
    """Save the adapter in `folder` again with another configuration or other tensors."""
    config_file, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    config, tensors = json.loads(config_file.read_text()), load_file(weights)
    change(config, tensors)
    config_file.write_text(json.dumps(config))
    save_file(tensors, weights)


def merged_by_peft(model: nn.Module, folder: Path, *, allow: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of the base model `model` after PEFT loads the adapter in `folder` and merges it.

    Any warning fails, as PEFT warns where keys are missing or patterns fit nothing; those in `allow` do not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("`is_gradient_checkpointing` is deprecated", *allow):
            warnings.filterwarnings("ignore", message=f".*{text}")
        wrapped = PeftModel.from_pretrained(model, folder)
        return dict(wrapped.merge_and_unload().state_dict())
