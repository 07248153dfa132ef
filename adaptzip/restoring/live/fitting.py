"""Whether a model in memory has the modules of an adapter, told before anything in it is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from adaptzip.core.adapter import Adapter
from adaptzip.errors import BaseModelError
from adaptzip.models.extras import WHICH
from adaptzip.models.live.layers import find_layers, oriented, updated_apart


def model_name(model: nn.Module) -> Path:
    """What messages call a model: its class."""
    return Path(type(model).__name__)


def check_fits(model: nn.Module, adapter: Adapter) -> None:
    """Refuse a model that lacks a module, or has it in another shape.

    Raises:
        BaseModelError: by the module's name.
        RefusedError: if it is a part of fused experts that have their outputs by turns.
    """
    where = model_name(model)
    known = {name: _unwrapped(module) for name, module in model.named_modules()}
    for name, layer in find_layers(model, adapter.modules, where, known).items():
        factors = adapter.modules[name]
        found = oriented(layer, factors)
        if found.shape != factors.shape:
            raise BaseModelError(
                f"{where}: the layer {name} is {list(found.shape)}, the adapter's update {list(factors.shape)}",
                hint=WHICH,
            )


def check_biases(model: nn.Module, adapter: Adapter) -> None:
    """Refuse a model without the biases that an adapter adds to, which no merge gives it.

    Raises:
        BaseModelError: by the module's name.
    """
    where = model_name(model)
    adding = [name for name, factors in adapter.modules.items() if factors.bias is not None]
    for name, layer in find_layers(model, adding, where).items():
        if getattr(layer.module, "bias", None) is None:
            raise BaseModelError(
                f"{where}: the layer {name} has no bias, which the adapter's lora_bias is to be added to",
                hint="a model without that bias cannot hold this adapter once merged",
            )


def in_order(model: nn.Module, adapter: Adapter) -> Adapter:
    """The adapter with its modules in the model's order, in which PEFT adds them to a weight that several share."""
    order = {id(module): number for number, module in enumerate(model.modules())}
    layers = find_layers(model, adapter.modules, model_name(model))
    names = sorted(adapter.modules, key=lambda name: order[id(layers[name].module)])
    return replace(adapter, modules={name: adapter.modules[name] for name in names})


def shifted(model: nn.Module, adapter: Adapter) -> list[str]:
    """Layers that an update of another acts on once merged, since they share its weight."""
    layers = find_layers(model, adapter.modules, model_name(model))
    return list(dict.fromkeys(other for _, others in updated_apart(model, adapter, layers) for other in others))


def _unwrapped(module: nn.Module) -> nn.Module:
    """The layer below PEFT's, where there is one."""
    inside = getattr(module, "get_base_layer", None)
    found: nn.Module = inside() if callable(inside) else module
    return found
