"""Tensors beside the factors, which go where their layers go when an adapter's modules get other names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptzip.checkpoints._keys import PREFIX
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.effects import Effect

LEAVES = ("weight", "bias")
"""Ends of the names of a layer's tensors; a name without is that of a parameter by itself."""


@dataclass(frozen=True)
class Layer:
    """What one layer, which is one layer elsewhere as well, is called there.

    Attributes:
        name: the name; of a fused layer the one it has here.
        swapped: whether the halves of its rows change places.
        parts: the layers that its rows come apart into there, in their order, with the share that each has of them; ()
            for one layer.
    """

    name: str
    swapped: bool = False
    parts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Respelled:
    """An adapter's modules as another implementation has them.

    Attributes:
        modules: by name.
        layer: what another layer of the model is called there; None where that is not known, or it is a part of one.
    """

    modules: Mapping[str, LoraFactors]
    layer: Callable[[str], Layer | None]


def carried(adapter: Adapter, respelled: Respelled) -> Adapter:
    """The adapter with these modules, and what lies beside them under the names of its layers there.

    A tensor whose layer has no name there keeps its own.
    """
    told = adapter.resolved
    extras: dict[str, Tensor] = {}
    effects: dict[str, Effect] = {}
    for key, tensor in adapter.extras.items():
        effect = told.extras[key]
        for name, rows in _placed(effect.tensor, tensor, respelled):
            there = key if name is None else f"{PREFIX}{name}"
            extras[there] = rows
            effects[there] = effect if name is None else replace(effect, tensor=name)
    effects_there = replace(told, extras=effects) if extras else adapter.effects
    return replace(adapter, modules=dict(respelled.modules), extras=extras, effects=effects_there)


def _placed(name: str, tensor: Tensor, respelled: Respelled) -> Iterator[tuple[str | None, Tensor]]:
    layer, _, leaf = name.rpartition(".")
    if leaf not in LEAVES:
        layer, leaf = name, ""
    found = respelled.layer(layer)
    if found is None:
        yield None, tensor
        return
    rows = turned(tensor) if found.swapped else tensor
    parts = found.parts or ((found.name, 1),)
    unit = rows.shape[0] // sum(share for _, share in parts) if found.parts else 0
    pieces = torch.split(rows, [share * unit for _, share in parts]) if found.parts else (rows,)
    for (part, _), piece in zip(parts, pieces, strict=True):
        yield f"{part}.{leaf}" if leaf else part, piece


def turned(rows: Tensor) -> Tensor:
    """Rows with their two halves the other way round."""
    half = rows.shape[0] // 2
    return torch.cat([rows[half:], rows[:half]])


def turned_factors(factors: LoraFactors) -> LoraFactors:
    """The update of a layer whose rows have their two halves the other way round."""
    return replace(
        factors, B=turned(factors.B), magnitude=_turned_vector(factors.magnitude), bias=_turned_vector(factors.bias)
    )


def _turned_vector(vector: Tensor | None) -> Tensor | None:
    return vector if vector is None or vector.ndim > 1 else turned(vector)
