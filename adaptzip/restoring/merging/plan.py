"""What merging will do to every tensor of the base model, decided before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.folder import BaseModel
from adaptzip.models.layouts import is_turned_by_peft, stored_layout
from adaptzip.models.names import Location, Renaming, locate
from adaptzip.models.renaming import find_renaming
from adaptzip.models.shards import StoredTensor
from adaptzip.models.tying import TiedFamily, find_family
from adaptzip.restoring.merging.config import merged_config
from adaptzip.restoring.merging.consistency import check_plan, resized_biases, resized_vocabulary
from adaptzip.restoring.merging.edits import BiasUpdate, Edit, NewTensor, Update
from adaptzip.restoring.merging.extras import ExtrasPlan, plan_extras
from adaptzip.restoring.merging.tying import SCALES_BY_TYING, Changes, Settled, settle, shape_after, untied_biases

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HEADLESS_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
"""PEFT's task types of models without an output embedding."""


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
        untied: embeddings that were one parameter are several in the merged model.
        warnings: what the user should know of the result, a line each.
        metadata: what the header of each weight file says of it.
    """

    base: BaseModel
    outputs: tuple[tuple[Output, ...], ...]
    config: Mapping[str, Any] | None
    modules: int
    extras: int
    untied: bool = False
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """The merged model's tensors by name."""
        return {output.stored.name: output.stored for shard in self.outputs for output in shard}


def plan_merge(
    adapter: Adapter,
    base: BaseModel,
    scale: float = 1.0,
    *,
    untie: bool = False,
    labels: Sequence[str] | None = None,
) -> MergePlan:
    """Find the place of every module and extra in the base model.

    Args:
        adapter: what to merge.
        base: what to merge it into.
        scale: multiplies every module's scaling; extras are applied in full.
        untie: give each tied embedding its own update only, as the live adapter does.
        labels: names of the labels of a trained head, which are taken where it has as many.

    Raises:
        BaseModelError: if the base lacks a module or has another shape, an extra finds no place, or the merged
            model's tensors would not fit one configuration.
        CheckpointError: if an extra is empty or ambiguous.
        RefusedError: if a weight that the adapter changes is no float, or the adapter repeats or reorders layers.
    """
    _check_layers(adapter, base)
    task = adapter.resolved.task
    renaming = find_renaming(base, list(adapter.modules))
    family = find_family(base, _named(adapter, renaming), headless=task in HEADLESS_TASKS)
    extras = plan_extras(adapter, base, renaming, family)
    edits, tied = _all_edits(adapter, base, renaming, family, extras, scale)
    settled = Settled() if family is None else settle(base, family, tied, extras.copies, untie=untie)
    edits |= settled.edits
    sizes = resized_vocabulary(base, edits)
    if sizes is not None:
        edits |= resized_biases(base, edits, sizes)
    added = {**settled.added, **untied_biases(base, settled.added, edits), **extras.added}
    outputs = tuple(_outputs(base, edits, added, renaming.old if extras.heads and not renaming.new else ""))
    says_tied = settled.untied and base.model_type in SCALES_BY_TYING
    untied = settled.untied and not says_tied
    config = merged_config(base.config, task, extras.heads, sizes, untied=untied, names=labels)
    plan = MergePlan(
        base,
        outputs,
        None if config == base.config else config,
        len(adapter.modules),
        extras.applied,
        settled.untied,
        tuple(_warnings(base, family, extras, settled, untie)),
    )
    check_plan(base, plan.tensors, config, extras.heads, extras.added)
    return plan


def plan_nothing(base: BaseModel) -> MergePlan:
    """The base model as it is."""
    return MergePlan(base, tuple(_outputs(base, {}, {}, "")), None, 0, 0)


def _check_layers(adapter: Adapter, base: BaseModel) -> None:
    ranges = [list(ends) for ends in adapter.resolved.layers]
    count = base.config.get("num_hidden_layers")
    if ranges and [i for start, end in ranges for i in range(start, end)] != list(range(count or ranges[-1][1])):
        raise RefusedError(
            f"layer_replication is {ranges}: the adapter belongs to a model of repeated, left out or reordered layers, "
            f"other than {base.path}",
            hint="merge it with PEFT, which builds that model: merge_and_unload, then save_pretrained",
        )


def _named(adapter: Adapter, renaming: Renaming) -> Iterator[str]:
    """The tensors of the model that the adapter changes, by the base's names for them."""
    for name in adapter.modules:
        yield next(renaming.names(f"{name}.weight"))
    effects = adapter.resolved.extras
    for key in adapter.extras:
        yield next(renaming.names(effects[key].tensor))


def _all_edits(
    adapter: Adapter, base: BaseModel, renaming: Renaming, family: TiedFamily | None, extras: ExtrasPlan, scale: float
) -> tuple[dict[str, tuple[Edit, ...]], Changes]:
    """What extras and then updates do to stored tensors, and to the members of a tied family."""
    edits = {name: list(found) for name, found in extras.edits.items()}
    tied = list(extras.tied)
    for name, factors in _in_pefts_order(adapter.modules):
        scaled = replace(factors, scaling=factors.scaling * scale)
        member = None if family is None else family.find(f"{name}.weight", renaming)
        before = [edit for _, edit in tied] if member is not None else None
        for tensor, edit in _module_edits(base, renaming, edits, before, name, scaled):
            if member is None or isinstance(edit, BiasUpdate):
                edits.setdefault(tensor, []).append(edit)
            else:
                tied.append((member, edit))
    return {name: tuple(found) for name, found in edits.items()}, tied


def _in_pefts_order(modules: Mapping[str, LoraFactors]) -> list[tuple[str, LoraFactors]]:
    """Where embeddings are tied, the input's update is added before the output's, and the encoder's first of all."""
    return sorted(modules.items(), key=lambda item: (item[1].layout != "embedding", ".decoder." in f".{item[0]}"))


def _module_edits(
    base: BaseModel,
    renaming: Renaming,
    edits: Mapping[str, Sequence[Edit]],
    tied: Sequence[Edit] | None,
    name: str,
    factors: LoraFactors,
) -> Iterator[tuple[str, Edit]]:
    for site in locate(base, name, renaming):
        before = edits.get(site.tensor, ()) if tied is None else tied
        layout = stored_layout(base, name, factors, site, shape_after(base.stored(site.tensor).shape, before))
        _check_dtype(base, site.tensor)
        _check_magnitude(base, name, factors, site, layout)
        if is_turned_by_peft(base, factors, site):
            turned = replace(factors, A=factors.B.T.contiguous(), B=factors.A.T.contiguous())
            yield site.tensor, Update(turned, "expert", site.rows)
            continue
        yield site.tensor, Update(factors, layout, site.rows, site.expert, site.part)
        if factors.bias is not None:
            bias = site.tensor.removesuffix("weight") + "bias"
            if bias not in base.tensors:
                raise BaseModelError(
                    f"{base.path}: has no {bias}, which the adapter's lora_bias is to be added to",
                    hint="a model without that bias cannot hold this adapter once merged",
                )
            yield bias, BiasUpdate(factors.bias, factors.scaling)


def _check_dtype(base: BaseModel, tensor: str) -> None:
    dtype = base.stored(tensor).dtype
    if dtype not in FLOATS:
        raise RefusedError(
            f"{base.path}: {tensor} is stored as {str(dtype).removeprefix('torch.')}, "
            "expected float32, bfloat16 or float16",
            hint="merge into the original float weights",
        )


def _check_magnitude(base: BaseModel, name: str, factors: LoraFactors, site: Location, layout: Layout) -> None:
    by_input = factors.magnitude is not None and factors.magnitude.ndim > 1
    if by_input and (site.rows is not None or layout not in ("linear", "conv")):
        lies = "is a part of the weight" if site.rows is not None else f"lies as {layout}"
        raise RefusedError(
            f"{base.path}: {site.tensor} {lies}, but the adapter's {name} has a DoRA magnitude for each input of a "
            "whole linear layer",
            hint="merge it into the base model in the form that it was trained on",
        )


def _outputs(
    base: BaseModel, edits: Mapping[str, tuple[Edit, ...]], added: Mapping[str, NewTensor], prefix: str
) -> Iterator[tuple[Output, ...]]:
    prefix = prefix if added else ""
    for number, shard in enumerate(base.shards):
        outputs = [
            Output(
                replace(stored, name=prefix + name, shape=shape_after(stored.shape, edits.get(name, ()))),
                name,
                edits.get(name, ()),
            )
            for name, stored in shard.tensors.items()
        ]
        if number == len(base.shards) - 1:
            outputs += [
                Output(StoredTensor(name, new.dtype, new.shape), new.source, new.edits) for name, new in added.items()
            ]
        yield tuple(outputs)


def _warnings(
    base: BaseModel, family: TiedFamily | None, extras: ExtrasPlan, settled: Settled, untie: bool
) -> Iterator[str]:
    if settled.shifted and family is not None:
        yield (
            f"{listed(family.members)} are one parameter: merged as PEFT merges, an update of one acts on all of them, "
            "so that the model computes something else than the live adapter; `untie=True` keeps them apart"
        )
    if untie and not settled.untied:
        yield "there is nothing to untie: the adapter has no update that tied embeddings do not share"
    if settled.untied and base.model_type in SCALES_BY_TYING:
        yield (
            f"config.json keeps its tie_word_embeddings, by which {base.model_type} scales its outputs: load the "
            f"model with transformers 5 or later, which keeps {listed(settled.added)} apart all the same"
        )
    if extras.ignored:
        yield f"{listed(extras.ignored)} did nothing: PEFT loads no such key beside the module's update either"


def listed(names: Iterable[str]) -> str:
    """Three names at most."""
    first = list(islice(names, 4))
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
