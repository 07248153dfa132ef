"""Adapters that PEFT makes, as training would leave them: A moved a little, B far from zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from adaptzip.bases.starts.found import FoundStart
from adaptzip.bases.starts.generators import matrices
from adaptzip.core.adapter import LoraFactors

Modules = dict[str, LoraFactors]


def tiny_llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model


def adapted(make: Callable[[], nn.Module], config: LoraConfig, seed: int, *, seeded_before: bool = False) -> nn.Module:
    """A PEFT model whose adapter is made after the seed was set; or its base as well."""
    torch.manual_seed(seed if seeded_before else 12345)
    base = make()
    if not seeded_before:
        torch.manual_seed(seed)
    model: nn.Module = get_peft_model(base, config)
    return model


def first_values(model: nn.Module) -> Modules:
    """The modules as they were made, A and B by the modules' names."""
    weights = {key: value.detach().clone() for key, value in model.named_parameters()}
    found = {}
    for key, A in weights.items():
        if ".lora_A." not in key:
            continue
        name = key.removeprefix("base_model.model.").split(".lora_A.")[0]
        found[name] = LoraFactors(A.flatten(1), weights[key.replace(".lora_A.", ".lora_B.")].flatten(1))
    return found


def trained(modules: Mapping[str, LoraFactors], by: float = 0.4) -> Modules:
    """Every A moved by noise of so many deviations, and every B filled."""
    generator = torch.Generator().manual_seed(77)

    def noise(like: Tensor, deviation: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * deviation

    return {
        name: replace(one, A=one.A + noise(one.A, by * float(one.A.std())), B=noise(one.B, 0.02))
        for name, one in sorted(modules.items())
    }


def check_exact(found: FoundStart, first: Mapping[str, LoraFactors]) -> None:
    """The numbers made again are those that the modules began with, up to scale and rounding."""
    for name, whole in matrices(found.generator, found.seed, found.places):
        A = first[name].A.double().numpy()
        scale = (A * whole).sum() / (whole.astype(float) ** 2).sum()
        assert np.abs(A - scale * whole).max() < 2e-6 * np.abs(A).max()
