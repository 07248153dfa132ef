"""What the adapters of one base have in common: how they are trained, and how they are scored."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

WARM_UP = 5
"""Steps until the rate is the kind's."""


@dataclass(frozen=True)
class Task:
    """What one adapter learns: examples to train on and others to score it on."""

    what: str
    train: Sequence[Any]
    held_out: Sequence[Any]


@dataclass(frozen=True)
class Kind:
    """A base and its recipe.

    Attributes:
        base: its name.
        targets: ends of the names of the layers that are adapted.
        layers: which layers of the model; all where None.
        scores: what a score is, of which more is better.
        model: the base, given the folder of material; the same object each time, which nobody changes for good.
        task: the task of a number, given the folder of material.
        loss: of a model on some examples.
        score: of a model on a task's held-out examples.
    """

    base: str
    targets: tuple[str, ...]
    layers: tuple[int, ...] | None
    steps: int
    batch: int
    rate: float
    scores: str
    model: Callable[[Path], nn.Module]
    task: Callable[[int, Path], Task]
    loss: Callable[[nn.Module, Sequence[Any]], Tensor]
    score: Callable[[nn.Module, Sequence[Any]], float]


def trained(kind: Kind, task: Task, material: Path, *, rank: int, start: int, seed: int) -> PeftModel:
    """A copy of the base with an adapter that has learnt the task.

    Args:
        start: the seed of A.
        seed: what batches are drawn by.
    """
    torch.manual_seed(start)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(kind.targets),
        layers_to_transform=None if kind.layers is None else list(kind.layers),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(copy.deepcopy(kind.model(material)), config)
    model.peft_config["default"].base_model_name_or_path = kind.base
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=kind.rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for step in range(kind.steps):
        for group in optimiser.param_groups:
            group["lr"] = kind.rate * min(1.0, (step + 1) / WARM_UP) * (1 - step / kind.steps)
        places = torch.randint(len(task.train), (kind.batch,), generator=generator).tolist()
        loss = kind.loss(model, [task.train[place] for place in places])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return model
