"""An adapter's modules in a model that is in memory, and putting the adapter on them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptzip.adapter import Adapter, Layout, LoraFactors
from adaptzip.calibration.extras import WHICH, place_tensors, resolve, sharing
from adaptzip.errors import AdaptzipWarning, BaseModelError
from adaptzip.merging.rules import merge_bias, merge_update

_EXPERT = re.compile(r"^(.*)\.([^.\[\]]+)\[(\d+)\]$")


@dataclass(frozen=True, eq=False)
class Layer:
    """Where a module of the adapter is in the model.

    Attributes:
        module: the layer; for an expert the layer that stacks the experts.
        parameter: its weight, in the layout `layout`.
        expert: the slice of a stacked parameter.
    """

    module: nn.Module
    parameter: nn.Parameter
    layout: Layout
    expert: int | None = None

    @property
    def weight(self) -> Tensor:
        """The weight, or the expert's slice of it."""
        return self.parameter.data if self.expert is None else self.parameter.data[self.expert]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) as the update counts them."""
        rows, columns = self.weight.shape[0], self.weight[0].numel()
        return (columns, rows) if self.layout in ("transposed", "embedding", "expert_transposed") else (rows, columns)

    def as_update(self, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape, such as its gradient, in the update's (out, in)."""
        part = tensor if self.expert is None else tensor[self.expert]
        if self.layout in ("transposed", "embedding", "expert_transposed"):
            return part.T
        return part.reshape(part.shape[0], -1)

    def as_weight(self, update: Tensor) -> Tensor:
        """An update (out, in) as it lies in the weight."""
        transposed = self.layout in ("transposed", "embedding", "expert_transposed")
        return update.T if transposed else update.reshape(self.weight.shape)


def find_layers(model: nn.Module, modules: Iterable[str], folder: Path) -> dict[str, Layer]:
    """The layer of each module, whose name may have another prefix in the model than in the adapter.

    Raises:
        BaseModelError: if one is not there, or at several places.
    """
    known = dict(model.named_modules())
    found: dict[str, Layer] = {}
    for name in modules:
        expert = _EXPERT.match(name)
        if expert is None:
            layer = known[resolve(name, known, folder)]
            found[name] = Layer(layer, _weight_of(layer, "weight", name, folder), _layout(layer))
        else:
            layer = known[resolve(expert[1], known, folder)]
            found[name] = Layer(layer, _weight_of(layer, expert[2], name, folder), "expert", int(expert[3]))
    return found


def add_adapter(model: nn.Module, adapter: Adapter, folder: Path, *, merged: bool = False) -> dict[str, Layer]:
    """Add an adapter's updates to a model's weights, and put its extras in their places.

    Args:
        merged: see `place_extras`.

    Returns:
        The layer of each module.

    Raises:
        BaseModelError: if a module or an extra finds no place, or has another shape.
    """
    layers = place_extras(model, adapter, folder, merged=merged)
    with torch.no_grad():
        for name, factors in adapter.modules.items():
            merge_update(layers[name].weight, factors, layers[name].layout)
    return layers


def place_extras(model: nn.Module, adapter: Adapter, folder: Path, *, merged: bool = False) -> dict[str, Layer]:
    """Put in their places what an adapter has beside its updates: its extras, and what it adds to biases.

    Args:
        merged: leave a weight that several layers share one, so that its update counts in all of them.

    Returns, raises:
        As `add_adapter`.
    """
    find_layers(model, adapter.modules, folder)
    with torch.no_grad():
        # First of all, as an extra may replace the weight, the bias or the whole layer below an update.
        place_tensors(model, adapter, folder, merged=merged)
        found = find_layers(model, adapter.modules, folder)
        if not merged:
            found |= part_updated(model, adapter, found)
        layers = {name: _oriented(layer, adapter.modules[name]) for name, layer in found.items()}
        for name, factors in adapter.modules.items():
            layer = layers[name]
            if layer.shape != factors.shape:
                raise BaseModelError(
                    f"{folder}: the layer {name} is {list(layer.shape)}, the adapter's update {list(factors.shape)}",
                    hint=WHICH,
                )
            if factors.bias is not None:
                merge_bias(_bias_of(layer, name, folder), factors.bias, factors.scaling)
    return layers


def _bias_of(layer: Layer, name: str, folder: Path) -> Tensor:
    """A layer's bias, which is zero where it has none of its own; raises a BaseModelError where it can't have any."""
    module: Any = layer.module
    if not hasattr(module, "bias"):
        raise BaseModelError(f"{folder}: the layer {name} has no place for the bias that the adapter adds", hint=WHICH)
    if module.bias is None:
        module.bias = nn.Parameter(layer.parameter.new_zeros(layer.shape[0]))
    bias: Tensor = module.bias.data
    return bias


def part_updated(model: nn.Module, adapter: Adapter, layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Give every updated layer that shares its weight with another a copy of it, as an update of the live model counts
    in its own layer alone; PEFT's `ensure_weight_tying` puts one update on all of them.

    Returns:
        The layers that have a copy now.
    """
    found = {}
    for name, layer in layers.items():
        others = [module for module in sharing(model, layer.parameter) if model.get_submodule(module) != layer.module]
        mine = {id(other.module) for other in layers.values() if other.parameter is layer.parameter}
        kept = adapter.meta.config.get("ensure_weight_tying") and len(mine) == 1
        if layer.expert is not None or not others or kept:
            continue
        parameter = nn.Parameter(layer.parameter.detach().clone())
        layer.module.weight = parameter
        found[name] = replace(layer, parameter=parameter)
        warnings.warn(
            f"{name} shares its weight with {others[0]}: the update counts in {name} alone, as in the live model; in a "
            "merged model it counts in both",
            AdaptzipWarning,
            stacklevel=2,
        )
    return found


def _weight_of(layer: nn.Module, name: str, module: str, folder: Path) -> nn.Parameter:
    weight = getattr(layer, name, None)
    if not isinstance(weight, nn.Parameter):
        raise BaseModelError(f"{folder}: {module} has no weight that an update could be added to", hint=WHICH)
    return weight


def _layout(layer: nn.Module) -> Layout:
    if isinstance(layer, nn.Embedding):
        return "embedding"
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return "conv"
    # transformers' Conv1D: a linear layer that stores (in, out).
    return "transposed" if type(layer).__name__ == "Conv1D" else "linear"


def _oriented(layer: Layer, factors: LoraFactors) -> Layer:
    """An expert's slice lies as its shape says, or where that is square as the adapter says."""
    if layer.expert is None:
        return layer
    square = factors.shape[0] == factors.shape[1]
    lies = tuple(layer.weight.shape)
    transposed = factors.layout == "expert_transposed" if square else lies == factors.shape[::-1]
    return Layer(layer.module, layer.parameter, "expert_transposed" if transposed else "expert", layer.expert)
