"""Tiny models of many architectures, which treat what texts are padded with in their own ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from adaptzip.models.kinds import Kind

_SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": 3,
}
_BERT = {**_SIZES, "max_position_embeddings": 24}
_DECODER = {**_SIZES, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
_NO_HEADS = {name: size for name, size in _BERT.items() if name != "num_attention_heads"}
_BART = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 24))}
_BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16, "max_position_embeddings": 24}
_T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "num_labels": 3}
_GPT2 = {"vocab_size": 32, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "num_labels": 3}
_MAMBA = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
_XLNET = {"vocab_size": 32, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, "num_labels": 3}
_DEBERTA = {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "Albert": {**_BERT, "embedding_size": 8},
    "Bart": {"vocab_size": 32, "num_labels": 3, **_BART},
    "ConvBert": {**_BERT, "embedding_size": 16, "conv_kernel_size": 3, "head_ratio": 2},
    "DebertaV2": {**_DEBERTA, "conv_kernel_size": 3},
    "FNet": _NO_HEADS,
    "Funnel": {
        "vocab_size": 32,
        "block_sizes": [1, 1],
        "d_model": 16,
        "n_head": 2,
        "d_head": 8,
        "d_inner": 24,
        "num_labels": 3,
    },
    "GPT2": {**_GPT2, "pad_token_id": 0},
    "Gemma3": {**_DECODER, "sliding_window": 4},
    "MPNet": {**_BERT, "pad_token_id": 1},
    "Mamba": _MAMBA,
    "ModernBert": {**_BERT, "local_attention": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "Qwen3Moe": {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    "Roberta": {**_BERT, "pad_token_id": 1},
    "T5": {**_T5, "decoder_start_token_id": 0},
    "XLNet": {**_XLNET, "pad_token_id": 5},
}
_CONFIG_CLASSES = {"Gemma3": "Gemma3TextConfig"}


@dataclass(frozen=True)
class Built:
    """A model, and what it is for."""

    model: nn.Module
    kind: Kind
    pad: int


def build(architecture: str, head: str, kind: Kind) -> Built:
    """A model whose weights are all random, so that nothing cancels.

    Args:
        head: the end of the class's name.
    """
    generator = torch.Generator().manual_seed(3)
    named = _CONFIG_CLASSES.get(architecture, f"{architecture}Config")
    config = getattr(transformers, named)(**CONFIGS[architecture])
    model = getattr(transformers, f"{architecture}{head}")(config).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    config.pad_token_id = config.pad_token_id or 0
    return Built(model, kind, config.pad_token_id)


def alone(built: Built, ids: list[int], target: list[int]) -> Tensor:
    """The rows (rows, width) of one text by transformers itself, without a mask or padding."""
    text = torch.tensor([ids])
    run: Callable[..., Any] = built.model
    with torch.no_grad():
        if built.kind == "seq2seq":
            rows: Tensor = run(input_ids=text, labels=torch.tensor([target])).logits[0]
            return rows
        output = run(input_ids=text)
    if built.kind == "encoder":
        mean: Tensor = output.last_hidden_state.mean(1)
        return mean
    logits: Tensor = output.logits
    return logits if built.kind == "classifier" else logits[0]
