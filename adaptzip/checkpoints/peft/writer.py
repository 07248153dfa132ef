"""Writing an Adapter as a folder that PEFT loads with the same update."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.adapter import Adapter, LoraFactors
from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._safetensors import build_header, fits, write_tensors
from adaptzip.checkpoints.peft.config import parse_config
from adaptzip.checkpoints.peft.keys import PREFIX, SUFFIXES

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


def write(adapter: Adapter, folder: Path, options: WriteOptions) -> None:
    """Write adapter_config.json and adapter_model.safetensors into `folder`."""
    adapter = _without_empty(adapter)
    tensors = file_tensors(adapter, options.dtype)
    header = adapter.meta.header
    if header is None or not fits(tensors, header):
        header = build_header(tensors, {"format": "pt"})
    with (folder / WEIGHTS_NAME).open("wb") as handle:
        write_tensors(handle, tensors, header)
    (folder / CONFIG_NAME).write_text(_config_text(adapter), encoding="utf-8")


def file_tensors(adapter: Adapter, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of adapter_model.safetensors by key."""
    tensors: dict[str, Tensor] = {}
    for name, factors in adapter.modules.items():
        tensors.update(_module_tensors(name, factors, dtype))
    return {**tensors, **adapter.extras}


def _module_tensors(name: str, factors: LoraFactors, dtype: torch.dtype | None) -> dict[str, Tensor]:
    a, b = factors.A.to(dtype or factors.A.dtype), factors.B.to(dtype or factors.B.dtype)
    stem, kernel = PREFIX + name, factors.kernel
    if factors.layout == "embedding":
        return {stem + SUFFIXES["embedding_A"]: a, stem + SUFFIXES["embedding_B"]: b}
    if kernel:
        a = a.reshape(a.shape[0], -1, *kernel)
        b = b.reshape(*b.shape, *(1 for _ in kernel))
    tensors = {stem + SUFFIXES["A"]: a, stem + SUFFIXES["B"]: b}
    if factors.bias is not None:
        tensors[stem + SUFFIXES["bias"]] = factors.bias
    if factors.magnitude is not None:
        shape = (1, -1, *(1 for _ in kernel)) if kernel else (-1,)
        tensors[stem + SUFFIXES["magnitude"]] = factors.magnitude.reshape(shape)
    return tensors


def _without_empty(adapter: Adapter) -> Adapter:
    """Modules of rank 0 become rank 1 with zeros, as PEFT has no rank 0."""
    modules = {name: factors if factors.rank else _zero_rank_one(factors) for name, factors in adapter.modules.items()}
    return Adapter(modules, adapter.extras, adapter.meta)


def _zero_rank_one(factors: LoraFactors) -> LoraFactors:
    out, inner = factors.shape
    return LoraFactors(
        torch.zeros(1, inner, dtype=factors.A.dtype), torch.zeros(out, 1, dtype=factors.B.dtype), 1.0,
        factors.layout, factors.kernel, factors.magnitude, factors.bias,
    )  # fmt: skip


def _config_text(adapter: Adapter) -> str:
    if adapter.meta.config_text is not None and _says_the_same(adapter):
        return adapter.meta.config_text
    return json.dumps(build_config(adapter), indent=2, sort_keys=True)


def _says_the_same(adapter: Adapter) -> bool:
    config = parse_config(adapter.meta.config, CONFIG_NAME)
    return all(config.rank(n) == f.rank and config.scaling(n) == f.scaling for n, f in adapter.modules.items())


def build_config(adapter: Adapter) -> dict[str, Any]:
    """adapter_config.json for `adapter`: its own, with ranks and scales brought in line with the factors."""
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": adapter.meta.base_model,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(adapter.modules),
        "task_type": None,
    }
    if adapter.meta.dialect == "peft":
        config |= adapter.meta.config
    config |= _ranks_and_alphas(adapter.modules)
    return config


def _ranks_and_alphas(modules: Mapping[str, LoraFactors]) -> dict[str, Any]:
    ranks = {name: factors.rank for name, factors in modules.items()}
    alphas = {name: _whole(factors.scaling * factors.rank) for name, factors in modules.items()}
    rank, alpha = _commonest(ranks), _commonest(alphas)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "rank_pattern": {_anchored(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {_anchored(name): a for name, a in alphas.items() if a != alpha},
    }


def _anchored(name: str) -> str:
    return "^" + re.escape(name)


def _whole(value: float) -> float:
    return int(value) if math.isfinite(value) and value == int(value) else value


def _commonest(values: Mapping[str, Any]) -> Any:
    counts: dict[Any, int] = {}
    for value in values.values():
        counts[value] = counts.get(value, 0) + 1
    return max(counts, key=lambda v: (counts[v], v))
