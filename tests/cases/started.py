"""Folders with adapters that PEFT made from a seed, as training would leave them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from tests.bases.starts.made import adapted, tiny_llama

LEAVES = ["q_proj", "up_proj"]


def config(**values: Any) -> LoraConfig:
    return LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": LEAVES, **values})


def train(model: nn.Module, by: float = 0.25) -> nn.Module:
    """Every A of a PEFT model moved by noise of so many deviations, every B filled with falling components."""
    generator = torch.Generator().manual_seed(77)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for key, value in sorted(model.named_parameters()):
            if "lora_A" in key or "lora_embedding_A" in key:
                value.add_(noise(value), alpha=by * float(value.std()))
            elif "lora_B" in key or "lora_embedding_B" in key:
                falling = 0.7 ** torch.arange(float(value.shape[1]))
                value.add_(noise(value) * falling.reshape(1, -1, *[1] * (value.ndim - 2)), alpha=0.02)
    return model


def folder(
    path: Path,
    seed: int,
    lora: LoraConfig | None = None,
    *,
    make: Callable[[], nn.Module] = tiny_llama,
    by: float = 0.25,
) -> Path:
    """A PEFT folder of an adapter whose start is that of a seed."""
    model: Any = train(adapted(make, config() if lora is None else lora, seed), by)
    with warnings.catch_warnings():
        # Of embedding layers, which are saved as well.
        warnings.simplefilter("ignore", UserWarning)
        model.save_pretrained(path)
    return path
