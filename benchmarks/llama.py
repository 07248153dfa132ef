"""A Llama of random bfloat16 weights, in several shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def random_llama(layers: int, hidden: int, vocabulary: int) -> PreTrainedModel:
    """The model, of one seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).bfloat16()


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write it in several shards."""
    model.save_pretrained(folder, max_shard_size=f"{model.num_parameters() // 2000}KB")
