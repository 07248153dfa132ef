"""Small base models, adapters that PEFT puts on them, and what they compute: what other programs are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

VOCABULARY = 96
TOKENS = (1, 30, 45, 77, 20, 11)
LINEAR = tuple(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down"))
MIXED: dict[str, Any] = {
    "rank_pattern": {"v_proj": 2, "down_proj": 6},
    "alpha_pattern": {"k_proj": 3, "down_proj": 5},
    "use_rslora": True,
}
"""Ranks and scales that differ, which neither of the programs has a place for."""
_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
_GEMMA = {"tie_word_embeddings": True, "sliding_window": 64, "query_pre_attn_scalar": 8}
_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GPT = {"n_embd": 64, "n_head": 8, "n_layer": 2, "n_positions": 64}
_OWN: Mapping[str, Mapping[str, Any]] = {
    "cohere": {"tie_word_embeddings": True, "logit_scale": 1.0},
    "cohere2": {"tie_word_embeddings": True, "logit_scale": 1.0, "sliding_window": 64},
    "exaone4": {"layer_types": ["full_attention"] * 2},
    "gpt_bigcode": {**_GPT, "tie_word_embeddings": True, "activation_function": "gelu"},
    "olmoe": {"num_experts": 2, "num_experts_per_tok": 2, "num_key_value_heads": 8},
    "olmo3": {"sliding_window": 64},
    "phi": {"num_key_value_heads": 8},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_moe": _EXPERTS,
    "gemma": {"tie_word_embeddings": True},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": _GPT,
    "gpt_neox": {"intermediate_size": 256, "hidden_act": "gelu_new"},
    "gptj": {**_GPT, "rotary_dim": 4},
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 2},
    "phi3": {"original_max_position_embeddings": 64},
}


@dataclass(frozen=True, eq=False)
class Case:
    """A base, an adapter, and the logits (tokens, vocabulary) after `TOKENS` without and with it."""

    base: Path
    adapter: Path
    plain: Tensor
    adapted: Tensor


def make(
    folder: Path, kind: str = "llama", *, tied: bool | None = None, targets: tuple[str, ...] = LINEAR, **config: Any
) -> Case:
    """A model of two layers, with fewer heads of keys than of queries, and an adapter of random factors.

    Args:
        folder: where both are saved.
        kind: the model's type.
        tied: whether the head is the embedding; None leaves it to the type.
        targets: ends of the names of the modules that are adapted.
        config: the rest of the adapter's configuration.
    """
    set_seed(0)
    model = AutoModelForCausalLM.from_config(_config(kind, tied), attn_implementation="eager").eval()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim == 1:  # Norms and biases, which are all 1 or 0 at first.
                tensor.add_(torch.randn_like(tensor) * 0.1)
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


def _config(kind: str, tied: bool | None) -> Any:
    sizes = {} if "n_embd" in _OWN.get(kind, {}) else _SIZES
    forced = {} if tied is None else {"tie_word_embeddings": tied}
    named = {
        "vocab_size": VOCABULARY,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return AutoConfig.for_model(kind, **{**sizes, **_OWN.get(kind, {}), **forced, **named})
