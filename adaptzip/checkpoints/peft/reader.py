"""Reading a PEFT LoRA into an Adapter."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from adaptzip.adapter import Adapter, Layout, LoraFactors, Meta
from adaptzip.checkpoints._base import Source
from adaptzip.checkpoints.peft.config import PeftConfig, parse_config
from adaptzip.checkpoints.peft.keys import Keys, Part, classify
from adaptzip.errors import CheckpointError


def read(source: Source) -> Adapter:
    """Read a PEFT LoRA completely: every key becomes part of a module or an extra, or is refused.

    Raises:
        CheckpointError: if the checkpoint is malformed or its scale is unknown.
        RefusedError: if it is valid but not a low-rank update.
    """
    keys = classify(source.tensors, source.weights)
    config = parse_config(_raw_config(source, keys), source.path)
    modules = {name: _factors(source, name, parts, config) for name, parts in keys.modules.items()}
    if not modules:
        raise CheckpointError(f"{source.weights}: holds no LoRA factors", hint="expected lora_A and lora_B keys")
    meta = Meta(
        dialect="peft",
        config=MappingProxyType(dict(config.raw)),
        base_model=config.raw.get("base_model_name_or_path"),
        header=source.header,
        config_text=source.config_text,
    )
    return Adapter(modules, {key: source.tensors[key] for key in keys.extras}, meta)


def _raw_config(source: Source, keys: Keys) -> Mapping[str, Any]:
    if source.config is not None:
        return source.config
    if source.alpha is None:
        raise CheckpointError(
            f"{source.weights}: there is no adapter_config.json beside it, so its scale is unknown",
            hint="put the adapter's adapter_config.json beside it, or give its lora_alpha with --alpha",
        )
    ranks = {
        name: source.tensors[key].shape[0]
        for name, parts in keys.modules.items()
        for part, key in parts.items()
        if part in ("A", "embedding_A") and source.tensors[key].ndim
    }
    most = max(ranks.values(), default=1)
    return {
        "peft_type": "LORA",
        "r": most,
        "lora_alpha": source.alpha,
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != most},
        "target_modules": sorted(ranks),
    }


def _factors(source: Source, name: str, parts: Mapping[Part, str], config: PeftConfig) -> LoraFactors:
    a_part, b_part = _pair(source, name, parts)
    a, b = source.tensors[parts[a_part]], source.tensors[parts[b_part]]
    for part in parts.values():
        _check_finite(source, part)
    layout: Layout = "linear"
    kernel: tuple[int, ...] = ()
    if a_part == "embedding_A":
        layout = "embedding"
    elif a.ndim > 2:
        layout, kernel = "conv", tuple(a.shape[2:])
        a, b = a.flatten(1), b.flatten(1)
    elif config.fan_in_fan_out:
        layout = "transposed"
    _check_shapes(source, name, a, b, config.rank(name))
    magnitude = source.tensors[parts["magnitude"]].reshape(-1) if "magnitude" in parts else None
    bias = source.tensors[parts["bias"]] if "bias" in parts else None
    return LoraFactors(a, b, config.scaling(name), layout, kernel, magnitude, bias)


def _pair(source: Source, name: str, parts: Mapping[Part, str]) -> tuple[Part, Part]:
    pair: tuple[Part, Part] = ("A", "B")
    if "embedding_A" in parts or "embedding_B" in parts:
        pair = ("embedding_A", "embedding_B")
    for part, other in (pair, pair[::-1]):
        if part not in parts:
            there = parts.get(other, next(iter(parts.values())))
            raise CheckpointError(
                f"{source.weights}: module {name} has {there} but no lora_{part}", hint="save the adapter again"
            )
    return pair


def _check_finite(source: Source, key: str) -> None:
    tensor: Tensor = source.tensors[key]
    if not tensor.is_floating_point():
        raise CheckpointError(f"{source.weights}: tensor {key} is {tensor.dtype}, expected floating point")
    if not bool(torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all()):
        raise CheckpointError(
            f"{source.weights}: tensor {key} holds NaN or infinity", hint="the training diverged; use an earlier save"
        )


def _check_shapes(source: Source, name: str, a: Tensor, b: Tensor, rank: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"{source.weights}: module {name} has A {list(a.shape)} and B {list(b.shape)}, "
            "expected A (rank, in) and B (out, rank)"
        )
    if a.shape[0] != rank:
        raise CheckpointError(
            f"{source.weights}: module {name} has rank {a.shape[0]}, but adapter_config.json says {rank}",
            hint="the weights and the configuration belong to different adapters",
        )
