"""Putting an adapter onto a model or a pipeline that is in memory, without a folder between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from adaptzip.checkpoints import conventions
from adaptzip.checkpoints._rescaling import uniform
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed
from adaptzip.core.showing import Shown
from adaptzip.core.words import count
from adaptzip.errors import RefusedError, UsageError
from adaptzip.restoring.in_memory import loadable
from adaptzip.restoring.live import guests
from adaptzip.restoring.live.fitting import check_fits
from adaptzip.restoring.live.undoing import as_it_was
from adaptzip.restoring.reading import adapter_from


@dataclass(frozen=True, repr=False)
class LoadReport(Shown):
    """What was put onto a model.

    Attributes:
        name: what the model calls the adapter.
        modules: how many modules it changes.
        extras: how many tensors beside them were put in their places.
        swapped: whether it took the place of another.
    """

    name: str
    modules: int
    extras: int
    swapped: bool

    def _told(self) -> Iterable[str]:
        yield repr(self.name)
        yield count(self.modules, "module")
        yield count(self.extras, "extra") if self.extras else ""
        yield "swapped in" if self.swapped else ""


@public
def load_into(
    model: Any,
    source: str | Path | Adapter | Compressed,
    *,
    name: str = "default",
    hotswap: bool = False,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
) -> LoadReport:
    """Put an adapter onto a live model as PEFT's layers, or onto a diffusers pipeline; no file is written.

    The adapter is active afterwards. A `PeftModel` and a model of transformers keep what they can do with adapters:
    `set_adapter`, `disable_adapters`, `delete_adapter`.

    Args:
        model: a `PeftModel`, any module that PEFT can put layers into, or a pipeline with `load_lora_weights`.
        source: any readable adapter, or one in memory.
        name: what the model calls it.
        hotswap: put it in the place of the adapter that is called so, without new layers: modules that the new one
            lacks are set to zero. Both have to be plain LoRA, alike with or without DoRA.
        alpha, config, dialect, base, basis: how to read the source, as for `read`.

    Raises:
        CheckpointError, FormatError: if the source cannot be read.
        BaseModelError: if the model lacks a module of the adapter, or has it in another shape; the model is as it was.
        RefusedError: if PEFT is missing or cannot hold the adapter, or extras were to be swapped.
        UsageError: if the model has an adapter of that name and `hotswap` is not set, or has none and it is, or if the
            name is none that PEFT takes.
        CheckFailedError: if not every tensor found its place.

    Example:
        >>> from transformers import AutoModelForSequenceClassification
        >>> model = AutoModelForSequenceClassification.from_pretrained("base-model")
        >>> adaptzip.load_into(model, "my-adapter", name="lists")
        LoadReport('lists', 8 modules, 2 extras)
        >>> model.active_adapters()
        ['lists']
    """
    adapter = adapter_from(source, alpha=alpha, config=config, dialect=dialect, base=base, basis=basis)
    if not name or "." in name:
        raise UsageError(f"an adapter can't be called {name!r} in a model", hint="give a name without dots")
    if hasattr(model, "load_lora_weights"):
        found = loadable(_for_pipelines(adapter), "diffusers")
        guests.load_into_pipeline(model, found.tensors, name, hotswap=hotswap)
        return LoadReport(name, len(adapter.modules), 0, hotswap)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a {type(model).__name__} is no model that an adapter could be loaded into",
            hint="give a torch module, a PeftModel, or a pipeline of diffusers",
        )
    known = guests.adapters_of(model)
    if (name in known) != hotswap:
        raise UsageError(_misnamed(name, known, hotswap), hint=_HOTSWAP_HINT[hotswap])
    if hotswap:
        _swap(model, adapter, name)
    else:
        found = loadable(adapter, "peft")
        check_fits(guests.base_of(model), found.adapter)
        with as_it_was(model):
            guests.add(model, found.tensors, found.config, name)
    return LoadReport(name, len(adapter.modules), len(adapter.extras), hotswap)


_HOTSWAP_HINT = {
    False: "give another name, or swap it in with hotswap=True",
    True: "name an adapter that it has, or load this one without hotswap=True",
}


def _misnamed(name: str, known: Iterable[str], hotswap: bool) -> str:
    if not hotswap:
        return f"the model has an adapter called {name!r} already"
    listed = ", ".join(map(repr, known)) or "no adapter"
    return f"the model has no adapter called {name!r} that could be swapped; it has {listed}"


def _swap(model: nn.Module, adapter: Adapter, name: str) -> None:
    if adapter.extras:
        raise RefusedError(
            f"the adapter has {next(iter(adapter.extras))} beside its updates, and hot-swapping is of updates alone",
            hint="load it under a name of its own",
        )
    for module, factors in adapter.modules.items():
        if factors.layout not in ("linear", "transposed", "conv"):
            raise RefusedError(
                f"module {module} is no linear layer or convolution, which PEFT swaps alone",
                hint="load it under a name of its own",
            )
    found = loadable(uniform(adapter, one_rank=False), "peft")
    check_fits(guests.base_of(model), found.adapter)
    guests.swap(model, found.tensors, found.config, name)


def _for_pipelines(adapter: Adapter) -> Adapter:
    """As diffusers means it where it is given tensors and no metadata: with one rank in each component, and scale 1."""
    if not conventions(adapter.meta.dialect).pipelines:
        raise RefusedError(
            "the adapter is of a single model, and a pipeline is to have it",
            hint="load it into the component that it is for, such as pipeline.unet",
        )
    return uniform(adapter, one_rank=True)
