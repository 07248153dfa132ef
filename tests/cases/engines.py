"""What inference engines say that they read of a PEFT LoRA, written down as rules over its files.

vLLM's `peft_helper.py` takes r, lora_alpha, target_modules and use_rslora, and refuses DoRA, modules_to_save, biases
and ranks beyond its limit; SGLang and TGI take one r and one lora_alpha for all, and the scale alpha / r whatever
rslora and patterns say; llama.cpp's and all others' loaders know the keys of A and B alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

VLLM_RANKS = 16
"""vLLM's --max-lora-rank where nobody asks for more."""
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def opened(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors, as they stand in the files."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config, load_file(folder / "adapter_model.safetensors")


def vllm(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """What vLLM would refuse, or overlook in its older versions."""
    faults = [field for field in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern") if config.get(field)]
    if config.get("bias") != "none":
        faults.append("bias")
    if not all(isinstance(config.get(field), int) for field in ("r", "lora_alpha")) or config["r"] > VLLM_RANKS:
        faults.append("r")
    if not isinstance(config.get("target_modules"), list):
        faults.append("target_modules")
    return faults + _faults_of_keys(tensors)


def sglang(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """What SGLang, and TGI likewise, would refuse or overlook."""
    faults = [] if str(config.get("peft_type")).lower() == "lora" else ["peft_type"]
    ignored = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias")
    faults += [field for field in ignored if config.get(field)]
    ranks = {tensor.shape[0] for key, tensor in tensors.items() if key.endswith(".lora_A.weight")}
    if ranks != {config.get("r")}:
        faults.append("r")
    return faults + _faults_of_keys(tensors)


def updates(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The update of each module by the one rule that all of them have: lora_alpha / r times B A."""
    scale = config["lora_alpha"] / config["r"]
    names = {match[1] for match in map(_KEY.fullmatch, tensors) if match is not None}
    pairs = {name: [tensors[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB"] for name in names}
    return {name: scale * (b @ a) for name, (a, b) in pairs.items()}


def _faults_of_keys(tensors: Mapping[str, Tensor]) -> list[str]:
    wrong = [key for key, t in tensors.items() if _KEY.fullmatch(key) is None or t.ndim != 2 or t.dtype not in _DTYPES]
    return ["keys"] if wrong else []
