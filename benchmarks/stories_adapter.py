"""A LoRA for the 260,032-parameter story model, trained on Shakespeare in half a minute.

There is no public adapter for a model this small, and one that is trained on the spot needs no download.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from adaptzip.adapter import Adapter, LoraFactors
from adaptzip.calibration.tokenisers import load_tokeniser

RANK = 8
SCALING = 2.0
STEPS = 150
BATCH = 8
LENGTH = 128
LEARNING_RATE = 3e-3
WARM_UP = 20


def train(base: Path, texts: Sequence[str], *, steps: int = STEPS, seed: int = 0) -> Adapter:
    """A LoRA of rank 8 on every linear layer of the decoder, trained on the next token of `texts`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).requires_grad_(False)
    tokeniser = load_tokeniser(base, model.config.vocab_size)
    stream = torch.tensor([token for text in texts for token in tokeniser.encode(text)[1:]])
    factors = _attach(model)
    optimiser = torch.optim.AdamW([f for pair in factors.values() for f in pair], lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(steps):
        starts = torch.randint(0, len(stream) - LENGTH - 1, (BATCH,)).tolist()
        ids = torch.stack([stream[start : start + LENGTH] for start in starts])
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP) * (1 - step / steps)
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    return Adapter({name: LoraFactors(A.detach(), B.detach(), SCALING) for name, (A, B) in sorted(factors.items())})


def _attach(model: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    factors = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name != "lm_head":
            A = nn.Parameter(torch.randn(RANK, layer.in_features) / layer.in_features**0.5)
            B = nn.Parameter(torch.zeros(layer.out_features, RANK))
            factors[name] = A, B
            layer.register_forward_hook(partial(_add, A, B))
    return factors


def _add(A: Tensor, B: Tensor, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + SCALING * (args[0] @ A.T) @ B.T
