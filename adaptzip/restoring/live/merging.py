"""Merging an adapter into the weights of a model that is in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from adaptzip.checkpoints import Writer, conventions, vet_numbers, writer
from adaptzip.checkpoints._image.pipelines import by_component
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed
from adaptzip.core.showing import Shown
from adaptzip.core.words import count
from adaptzip.errors import RefusedError, UsageError, warn
from adaptzip.models.live.layers import add_adapter
from adaptzip.restoring.live.fitting import check_biases, check_fits, in_order, model_name, shifted
from adaptzip.restoring.live.guests import adapters_of
from adaptzip.restoring.reading import adapter_from


@dataclass(frozen=True, repr=False)
class MergedReport(Shown):
    """What was merged into a model.

    Attributes:
        modules: how many modules it changed.
        extras: how many tensors beside them were put in their places.
    """

    modules: int
    extras: int

    def _told(self) -> Iterable[str]:
        yield count(self.modules, "module")
        yield count(self.extras, "extra") if self.extras else ""


@public
def merge_into(
    model: Any,
    source: str | Path | Adapter | Compressed,
    *,
    scale: float = 1.0,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
) -> MergedReport:
    """Add an adapter to the weights of a live model or pipeline, in place, with the bits that `merge` writes.

    Args:
        model: a torch module in floating point, without adapters of PEFT's, or a pipeline of diffusers.
        source: any readable adapter, or one in memory.
        scale: multiplies every update; extras are applied in full.
        alpha, config, dialect, base, basis: how to read the source, as for `read`.

    Raises:
        CheckpointError, FormatError: if the source cannot be read.
        BaseModelError: if the model lacks a module of the adapter, or has it in another shape; the model is as it was
            then. Or if an extra finds no place.
        RefusedError: if the model holds adapters of PEFT's already, or the adapter is of several models.
        UsageError: if the model is none, or the scale is no finite number.

    Warns with an AdaptzipWarning where an update acts on a layer that shares the weight, too.

    Example:
        >>> from transformers import AutoModelForSequenceClassification
        >>> model = AutoModelForSequenceClassification.from_pretrained("base-model")
        >>> adaptzip.merge_into(model, "my-adapter")
        MergedReport(8 modules, 2 extras)
    """
    adapter = adapter_from(source, alpha=alpha, config=config, dialect=dialect, base=base, basis=basis)
    parts = _parts(model, adapter)
    if not math.isfinite(scale):
        raise UsageError(f"the scale is {scale}, expected a finite number", hint="give `scale=` a number such as 0.7")
    vet_numbers(adapter)
    for one, part in parts:
        if adapters_of(one):
            raise RefusedError(
                "the model has adapters of PEFT's, whose layers hold its weights",
                hint="merge or unload them first, as with model.unload()",
            )
        check_fits(one, part)
        check_biases(one, part)
        others = shifted(one, part)
        if others:
            warn(
                f"{', '.join(others)} shares a weight that is updated: merged as PEFT merges, the update acts on it "
                "too, so that the model computes something else than with the adapter loaded"
            )
    for one, part in parts:
        part = in_order(one, part)
        modules = {name: replace(m, scaling=m.scaling * scale) for name, m in part.modules.items()}
        add_adapter(one, replace(part, modules=modules), model_name(one), merged=True)
    return MergedReport(len(adapter.modules), len(adapter.extras))


def _parts(model: Any, adapter: Adapter) -> list[tuple[nn.Module, Adapter]]:
    """The models that are changed, each with its part of the adapter."""
    if isinstance(model, nn.Module):
        return [(model, cast("Writer", writer("peft")).spelled(adapter))]
    components = getattr(model, "components", None)
    if not isinstance(components, dict):
        raise UsageError(
            f"a {type(model).__name__} is no model that an adapter could be merged into",
            hint="give a torch module, or a pipeline of diffusers",
        )
    if not conventions(adapter.meta.dialect).pipelines:
        raise RefusedError(
            "the adapter is of a single model, and a pipeline is to have it",
            hint="merge it into the component that it is for, such as pipeline.unet",
        )
    found = by_component(cast("Writer", writer("diffusers")).spelled(adapter))
    for name in found:
        if not isinstance(components.get(name), nn.Module):
            raise RefusedError(f"the adapter is of {name}, which the pipeline lacks", hint="give the pipeline it is of")
    return [(components[name], part) for name, part in found.items()]
