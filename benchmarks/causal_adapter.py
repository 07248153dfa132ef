"""A LoRA on every linear layer of a causal model, trained on the spot, for want of a public one that is free to use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.linalg import choose_device
from adaptzip.models.texts.tokenisers import load_tokeniser

SCALING = 2.0
BATCH = 8
LENGTH = 128
WARM_UP = 20


def train(
    base: Path, texts: Sequence[str], *, rank: int = 8, steps: int = 150, rate: float = 3e-3, seed: int = 0
) -> Adapter:
    """A LoRA on every linear layer of the decoder, trained on the next token of `texts`; on CUDA when present."""
    torch.manual_seed(seed)
    device = choose_device("auto")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).requires_grad_(False).to(device)
    tokeniser = load_tokeniser(base)
    stream = torch.tensor([token for text in texts for token in tokeniser.encode(text)[1:]])
    factors = _attach(model, rank)
    optimiser = torch.optim.AdamW([f for pair in factors.values() for f in pair], lr=rate, weight_decay=0.0)
    for step in range(steps):
        starts = torch.randint(0, len(stream) - LENGTH - 1, (BATCH,)).tolist()
        ids = torch.stack([stream[start : start + LENGTH] for start in starts]).to(device)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, step / WARM_UP) * (1 - step / steps)
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    found = {name: (A.detach().cpu(), B.detach().cpu()) for name, (A, B) in sorted(factors.items())}
    return Adapter({name: LoraFactors(A, B, SCALING) for name, (A, B) in found.items()})


def _attach(model: nn.Module, rank: int) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    factors = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name != "lm_head":
            device = layer.weight.device
            A = nn.Parameter((torch.randn(rank, layer.in_features) / layer.in_features**0.5).to(device))
            B = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
            factors[name] = A, B
            layer.register_forward_hook(partial(_add, A, B))
    return factors


def _add(A: Tensor, B: Tensor, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    found: Tensor = output + SCALING * (args[0] @ A.T) @ B.T
    return found
