"""What merging will do to every tensor of the base model, decided before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from adaptzip.adapter import Adapter, LoraFactors
from adaptzip.base.layouts import stored_layout
from adaptzip.base.model import BaseModel
from adaptzip.base.names import Renaming, locate
from adaptzip.base.renaming import find_renaming
from adaptzip.base.shards import StoredTensor
from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.merging.config import merged_config
from adaptzip.merging.edits import BiasUpdate, Edit, Update
from adaptzip.merging.extras import ExtrasPlan, plan_extras


@dataclass(frozen=True, eq=False)
class Output:
    """One tensor of the merged model.

    Attributes:
        stored: its name, dtype and shape.
        source: the base's tensor it starts from, None where the first edit makes it.
        edits: what is done to it, in order.
    """

    stored: StoredTensor
    source: str | None
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, eq=False)
class MergePlan:
    """What will be written.

    Attributes:
        base: the base model.
        outputs: the tensors of each weight file of the base, in the order of its files.
        config: the merged model's config.json where it differs from the base's, else None.
        modules: how many modules are merged.
        extras: how many extras are applied.
    """

    base: BaseModel
    outputs: tuple[tuple[Output, ...], ...]
    config: Mapping[str, Any] | None
    modules: int
    extras: int


def plan_merge(adapter: Adapter, base: BaseModel, scale: float = 1.0) -> MergePlan:
    """Find the place of every module and extra in the base model.

    Args:
        adapter: what to merge.
        base: what to merge it into.
        scale: multiplies every module's scaling; extras are applied in full.

    Raises:
        BaseModelError: if the base lacks a module or has another shape, or an extra finds no place.
        RefusedError: if a weight that the adapter changes is no float.
    """
    renaming = find_renaming(base, list(adapter.modules))
    extras = plan_extras(adapter, base, renaming)
    edits: dict[str, list[Edit]] = {name: list(found) for name, found in extras.edits.items()}
    for name, factors in _embeddings_first(adapter.modules):
        scaled = replace(factors, scaling=factors.scaling * scale)
        for tensor, edit in _module_edits(base, renaming, extras, name, scaled):
            edits.setdefault(tensor, []).append(edit)
    return MergePlan(
        base,
        tuple(_outputs(base, edits, extras)),
        merged_config(base.config, adapter.meta.config.get("task_type"), extras),
        len(adapter.modules),
        extras.applied,
    )


def _embeddings_first(modules: Mapping[str, LoraFactors]) -> list[tuple[str, LoraFactors]]:
    """Where embeddings are tied, the input's update is added before the output's, as PEFT does."""
    return sorted(modules.items(), key=lambda item: item[1].layout != "embedding")


def _module_edits(
    base: BaseModel, renaming: Renaming, extras: ExtrasPlan, name: str, factors: LoraFactors
) -> Iterator[tuple[str, Edit]]:
    for site in locate(base, name, renaming):
        layout = stored_layout(base, name, factors, site, extras.shapes.get(site.tensor))
        _check_dtype(base, site.tensor)
        for tensor in _partners(base, extras, site.tensor):
            yield tensor, Update(factors, layout, site.rows, site.expert, site.part)
        if factors.bias is not None:
            bias = site.tensor.removesuffix("weight") + "bias"
            if bias not in base.tensors:
                raise BaseModelError(
                    f"{base.path}: has no {bias}, which the adapter's lora_bias is to be added to",
                    hint="a model without that bias cannot hold this adapter once merged",
                )
            yield bias, BiasUpdate(factors.bias, factors.scaling)


def _partners(base: BaseModel, extras: ExtrasPlan, tensor: str) -> tuple[str, ...]:
    return (tensor,) if extras.untied else base.tied_partners(tensor)


def _check_dtype(base: BaseModel, tensor: str) -> None:
    dtype = base.stored(tensor).dtype
    if dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise RefusedError(
            f"{base.path}: {tensor} is stored as {str(dtype).removeprefix('torch.')}, "
            "expected float32, bfloat16 or float16",
            hint="merge into the original float weights",
        )


def _outputs(base: BaseModel, edits: Mapping[str, Sequence[Edit]], extras: ExtrasPlan) -> Iterator[tuple[Output, ...]]:
    for number, shard in enumerate(base.shards):
        outputs = [
            Output(
                replace(stored, name=extras.prefix + name, shape=extras.shapes.get(name, stored.shape)),
                name,
                tuple(edits.get(name, ())),
            )
            for name, stored in shard.tensors.items()
        ]
        if number == len(base.shards) - 1:
            outputs += [
                Output(StoredTensor(name, new.dtype, new.shape), new.source, new.edits)
                for name, new in extras.added.items()
            ]
        yield tuple(outputs)
