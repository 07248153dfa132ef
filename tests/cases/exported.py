"""Adapters of each kind to export, and what PEFT makes of an export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from adaptzip.checkpoints._rescaling import pad
from adaptzip.core.adapter import Adapter, LoraFactors
from tests.cases.tiny_peft import bert, gpt2, layers, llama, merged_by_peft, mixtral

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "linear": (llama, {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}),
    "rslora and patterns": (
        llama,
        {"r": 4, "target_modules": ["q_proj", "v_proj"], "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    ),
    "one layer of a regex": (llama, {"r": 3, "target_modules": r".*layers\.1\.self_attn\.(q|v)_proj"}),
    "conv1d": (gpt2, {"r": 3, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "dora": (llama, {"r": 3, "target_modules": ["q_proj"], "use_dora": True}),
    "head and biases": (bert, {"r": 3, "target_modules": ["query"], "bias": "all", "task_type": "SEQ_CLS"}),
    "tokens": (llama, {"r": 3, "target_modules": ["q_proj"], "trainable_token_indices": [3, 1]}),
    "embedding": (llama, {"r": 3, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "layers": (layers, {"r": 3, "target_modules": ["emb", "conv1", "conv2", "conv3", "lin"]}),
    "layers with dora": (layers, {"r": 3, "target_modules": ["emb", "conv2", "lin"], "use_dora": True}),
    "lora_bias": (layers, {"r": 3, "target_modules": ["conv2", "lin"], "lora_bias": True}),
    "mica": (llama, {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": "mica"}),
    "experts": (
        mixtral,
        {
            "r": 3,
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"],
        },
    ),
}


def recompressed(adapter: Adapter) -> Adapter:
    """The same update as a lossy method gives it back: mixed ranks, other scales, and no source header."""
    modules = {
        name: rescaled(pad(factors, factors.rank + number % 3), (1.0, 0.3, 2.0)[number % 3])
        for number, (name, factors) in enumerate(adapter.modules.items())
    }
    return Adapter(modules, adapter.extras, replace(adapter.meta, header=None, config_text=None))


def rescaled(factors: LoraFactors, scaling: float) -> LoraFactors:
    ratio = factors.scaling / scaling
    bias = None if factors.bias is None else factors.bias * ratio
    return replace(factors, B=factors.B * ratio, scaling=scaling, bias=bias)


def assert_merges_alike(model: Any, trained: Any, folder: Path) -> None:
    merged = merged_by_peft(model(), folder)
    assert merged.keys() == trained.merged.keys()
    for name, tensor in trained.merged.items():
        torch.testing.assert_close(merged[name], tensor, atol=2e-5, rtol=2e-5)
