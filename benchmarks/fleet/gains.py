"""What an adapter of a fleet is worth: the share of its teacher's improvement over the base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

import adaptzip
from adaptzip.core.adapter import Adapter
from benchmarks import results
from benchmarks.fleet.kinds import Task
from benchmarks.fleet.members import KINDS, Member

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Trained:
    """A line of a fleet's manifest.

    Attributes:
        what: its data.
        before: the base's score on what is held out of the data.
        after: the adapter's.
        seconds: processor time of its training.
    """

    member: Member
    base: str
    what: str
    scores: str
    before: float
    after: float
    seconds: float


def share(score: float, before: float, after: float) -> float:
    """The part of the way from `before` to `after` at which a score is; less than 0 where it harms."""
    return (score - before) / (after - before)


def manifest(fleet: Path) -> list[Trained]:
    """The members of a trained fleet."""
    rows = json.loads((fleet / MANIFEST).read_text(encoding="utf-8"))
    return [_trained(row) for row in rows]


def write_manifest(fleet: Path, rows: list[Trained]) -> None:
    """Put it in one move, so that a killed run leaves one that can be read."""
    made = fleet / f"{MANIFEST}.new"
    made.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    made.replace(fleet / MANIFEST)


def _trained(row: dict[str, object]) -> Trained:
    return Trained(**{**row, "member": Member(**row["member"])})  # type: ignore[arg-type]


def gain(adapter: Adapter | Path, one: Trained, material: Path = results.MATERIAL) -> float:
    """The share of a member's improvement that an adapter has: 1 for the member itself, 0 for the base.

    Args:
        adapter: an adapter, or a folder or file that holds one.
        one: the member that it stands for.
    """
    given = adapter if isinstance(adapter, Adapter) else adaptzip.read(adapter)
    return share(score(given, one.member, material), one.before, one.after)


def score(adapter: Adapter | None, member: Member, material: Path = results.MATERIAL) -> float:
    """Of the base with an adapter on it, or without, on what is held out of a member's data."""
    kind = KINDS[member.kind]
    model = kind.model(material)
    held_out = task_of(member.kind, member.task, material).held_out
    if adapter is None:
        return kind.score(model, held_out)
    with _added(model, adapter):
        return kind.score(model, held_out)


@lru_cache(maxsize=1024)
def task_of(kind: str, number: int, material: Path) -> Task:
    return KINDS[kind].task(number, material)


@contextmanager
def _added(model: nn.Module, adapter: Adapter) -> Iterator[None]:
    """The update added to the weights for a while; the very same weights come back."""
    weights = {name: model.get_parameter(f"{name}.weight") for name in adapter.modules}
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, module in adapter.modules.items():
            weights[name].add_(module.delta())
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])
