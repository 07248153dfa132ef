"""An adapter's modules in a model that is in memory, and putting the adapter on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from adaptzip.adapter import Adapter, Layout, LoraFactors
from adaptzip.checkpoints.peft.extras import extra_target, token_indices
from adaptzip.errors import BaseModelError
from adaptzip.merging.rules import merge_bias, merge_update

_EXPERT = re.compile(r"^(.*)\.([^.\[\]]+)\[(\d+)\]$")
_WHICH = "is this the base model that the adapter was trained on?"


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
            layer = known[_resolve(name, known, folder)]
            found[name] = Layer(layer, _weight_of(layer, "weight", name, folder), _layout(layer))
        else:
            layer = known[_resolve(expert[1], known, folder)]
            found[name] = Layer(layer, _weight_of(layer, expert[2], name, folder), "expert", int(expert[3]))
    return found


def add_adapter(model: nn.Module, adapter: Adapter, folder: Path) -> dict[str, Layer]:
    """Add an adapter's updates to a model's weights, and put its extras in their places.

    Returns:
        The layer of each module.

    Raises:
        BaseModelError: if a module or an extra finds no place, or has another shape.
    """
    layers = place_extras(model, adapter, folder)
    with torch.no_grad():
        for name, factors in adapter.modules.items():
            merge_update(layers[name].weight, factors, layers[name].layout)
    return layers


def place_extras(model: nn.Module, adapter: Adapter, folder: Path) -> dict[str, Layer]:
    """Put in their places what an adapter has beside its updates: its extras, and what it adds to biases.

    Returns, raises:
        As `add_adapter`.
    """
    layers = {
        name: _oriented(layer, adapter.modules[name])
        for name, layer in find_layers(model, adapter.modules, folder).items()
    }
    with torch.no_grad():
        # First of all, as an extra may replace the weight or the bias below an update.
        _replace_extras(model, adapter, folder)
        for name, factors in adapter.modules.items():
            layer = layers[name]
            if layer.shape != factors.shape:
                raise BaseModelError(
                    f"{folder}: the layer {name} is {list(layer.shape)}, the adapter's update {list(factors.shape)}",
                    hint=_WHICH,
                )
            bias = getattr(layer.module, "bias", None)
            if factors.bias is not None and isinstance(bias, Tensor):
                merge_bias(bias.data, factors.bias, factors.scaling)
    return layers


def extra_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The extras that replace a whole tensor of the model, by the tensor's name."""
    found = {}
    for key, tensor in adapter.extras.items():
        role, name = extra_target(key, adapter.meta.config, adapter.modules)
        if role == "replace":
            found[name] = tensor
    return found


def _replace_extras(model: nn.Module, adapter: Adapter, folder: Path) -> None:
    state = model.state_dict()
    for name, tensor in extra_tensors(adapter).items():
        place = _resolve(name, state, folder)
        if state[place].shape != tensor.shape:
            raise BaseModelError(
                f"{folder}: {place} is {list(state[place].shape)}, the adapter brings {list(tensor.shape)}", hint=_WHICH
            )
        state[place].copy_(tensor)
    for key, rows in adapter.extras.items():
        role, name = extra_target(key, adapter.meta.config, adapter.modules)
        indices = token_indices(key, adapter.meta.config)
        if role == "token_rows" and indices is not None:
            place = state[_resolve(name, state, folder)]
            place.index_copy_(0, torch.tensor(indices, device=place.device), rows.to(place))


def _resolve(name: str, known: Mapping[str, object], folder: Path) -> str:
    """`name` among the model's own names: as it is, or with another prefix before the layer list."""
    if name in known:
        return name
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    for cut in range(first + 1):
        tail = ".".join(parts[cut:])
        places = [other for other in known if other == tail or other.endswith(f".{tail}")]
        if len(places) == 1:
            return places[0]
        if len(places) > 1:
            raise BaseModelError(f"{folder}: {name} fits at several places: {', '.join(places[:3])}", hint=_WHICH)
    raise BaseModelError(f"{folder}: the model has no {name}", hint=_WHICH)


def _weight_of(layer: nn.Module, name: str, module: str, folder: Path) -> nn.Parameter:
    weight = getattr(layer, name, None)
    if not isinstance(weight, nn.Parameter):
        raise BaseModelError(f"{folder}: {module} has no weight that an update could be added to", hint=_WHICH)
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
