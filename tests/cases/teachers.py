"""Tiny teachers of every kind of model, with texts, and short training for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertModel

from adaptzip import Adapter, methods
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.method import Method
from adaptzip.distillation.distilling import Distilled, distill
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.student import Guest, magnitudes_of
from adaptzip.models.live.batches import Example
from adaptzip.models.live.running import LoadedModel, load_bare
from tests.cases import tiny_peft
from tests.cases.models_on_disk import adapter, head, save

CPU = torch.device("cpu")
SHORT = Schedule(steps=12, batch=8, every=6)


def texts(count: int = 40) -> tuple[Example, ...]:
    """Different texts of 3 to 7 letters, each with a class."""
    letters = [["abcdef"[(i * (j + 1) + j * j + i // 6) % 6] for j in range(3 + i % 5)] for i in range(count)]
    return tuple(Example(" ".join(row), str(len(row) % 3)) for row in letters)


def unlabelled(count: int = 40) -> tuple[Example, ...]:
    return tuple(Example(example.text) for example in texts(count))


def encoder() -> Any:
    tiny_peft.set_seed(0)
    return BertModel(tiny_peft.bert().config)


def classifier(folder: Path) -> tuple[Path, Adapter]:
    """(base, teacher) with a trained head."""
    return save(tiny_peft.bert, folder), head(adapter(tiny_peft.bert(), "query", "value", "output.dense", rank=3))


def teacher_of(make: Callable[[], Any], folder: Path, *ends: str) -> tuple[Path, Adapter]:
    """(base, teacher) of layers whose names end so."""
    return save(make, folder), adapter(make(), *ends, rank=3)


def has_own_basis(name: str) -> bool:
    """Whether a method's own basis is that of the update's directions."""
    method = methods.load(name)
    return isinstance(method, Method) and method.default_basis == "update"


def basis_for(name: str, teacher: Adapter, path: Path) -> dict[str, Any]:
    """The basis of the teacher's own directions in a file, for methods that have no other of their own."""
    if not has_own_basis(name):
        return {}
    if not path.exists():
        write_basis(build_basis([teacher]), path)
    return {"basis": path}


def train(base: Path, teacher: Adapter | Path, name: str, budget: str | None, **options: Any) -> Distilled:
    """`distill` on the CPU, shortly."""
    given: dict[str, Any] = {"data": texts(), "schedule": SHORT, "device": "cpu", **options}
    return distill(teacher=teacher, base=base, to=name, budget=budget, **given)


def guest_of(base: Path, teacher: Adapter) -> tuple[Guest, dict[str, tuple[Tensor, Tensor]]]:
    """The model without updates, and the teacher's."""
    loaded: LoadedModel = load_bare(base, teacher, CPU)
    factors = {name: (m.A * m.scaling, m.B) for name, m in teacher.modules.items()}
    return Guest(loaded, magnitudes_of(teacher.modules)), factors
