"""A small llama, an adapter that PEFT puts on it, and what the two compute: what other programs are held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

VOCABULARY = 96
TOKENS = (1, 30, 45, 77, 20, 11)
LINEAR = tuple(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))
MIXED: dict[str, Any] = {
    "rank_pattern": {"v_proj": 2, "down_proj": 6},
    "alpha_pattern": {"k_proj": 3, "down_proj": 5},
    "use_rslora": True,
}
"""Ranks and scales that differ, which neither of the programs has a place for."""


@dataclass(frozen=True, eq=False)
class Case:
    """A base, an adapter, and the logits (tokens, vocabulary) after `TOKENS` without and with it."""

    base: Path
    adapter: Path
    plain: Tensor
    adapted: Tensor


def make(folder: Path, *, tied: bool = False, targets: tuple[str, ...] = LINEAR, **config: Any) -> Case:
    """A llama of two layers, with fewer heads of keys than of queries, and an adapter of random factors.

    Args:
        folder: where both are saved.
        tied: whether the head is the embedding.
        targets: ends of the names of the modules that are adapted.
        config: the rest of the adapter's configuration.
    """
    set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=64,
            initializer_range=0.1,
            tie_word_embeddings=tied,
        )
    ).eval()
    model.save_pretrained(folder / "base")
    lora = LoraConfig(target_modules=list(targets), init_lora_weights=False, task_type="CAUSAL_LM", **config)
    adapted = get_peft_model(model, lora)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if ".lora_" in name and ".lora_magnitude" not in name:
                tensor.normal_(std=0.1)
        logits = adapted(torch.tensor([TOKENS])).logits[0]
        with adapted.disable_adapter():
            plain = adapted(torch.tensor([TOKENS])).logits[0]
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return Case(folder / "base", folder / "adapter", plain, logits)
