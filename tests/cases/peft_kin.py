"""Adapters of PEFT's smaller methods on tiny models, saved beside their bases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import TaskType, get_peft_model
from torch import Tensor

from tests.cases import tiny_peft

Make = Callable[..., Any]
MODELS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "llama": (tiny_peft.llama, ["q_proj", "up_proj", "down_proj"]),
    "bert": (tiny_peft.bert, ["query", "dense"]),
    "gpt2": (tiny_peft.gpt2, ["c_attn", "c_fc"]),
}
"""A model and what is trained of it."""


def saved(make: Make, fields: dict[str, Any], name: str, folder: Path) -> None:
    """Save an adapter with random numbers as `adapter` in a folder, and its base model as `base`.

    Args:
        make: the configuration's class in PEFT.
        fields: what it is made with.
        name: the model's.
    """
    model, targets = MODELS[name]
    task = TaskType.SEQ_CLS if name == "bert" else TaskType.CAUSAL_LM
    base = model()
    base.save_pretrained(folder / "base")
    tuned = get_peft_model(base, make(target_modules=targets, task_type=task, **fields))
    tiny_peft.randomise(tuned)
    tuned.save_pretrained(folder / "adapter")


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Whether the weights of merged models are the same, but for rounding."""
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], atol=1e-5, rtol=1e-5, msg=key)
