"""Whether a model in memory has the modules of an adapter, told before anything in it is changed."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from adaptzip.core.adapter import Adapter
from adaptzip.errors import BaseModelError
from adaptzip.models.extras import WHICH
from adaptzip.models.live.layers import find_layers, oriented


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


def _unwrapped(module: nn.Module) -> nn.Module:
    """The layer below PEFT's, where there is one."""
    inside = getattr(module, "get_base_layer", None)
    found: nn.Module = inside() if callable(inside) else module
    return found
