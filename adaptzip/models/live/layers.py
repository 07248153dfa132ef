"""An adapter's modules in a model that is in memory, and putting the adapter on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.function_method import Function
from adaptzip.core.layouts import TURNED, Layout
from adaptzip.errors import BaseModelError, RefusedError, warn
from adaptzip.models.adding import merge_bias, merge_update
from adaptzip.models.extras import WHICH, is_there, place_tensors, resolve, sharing
from adaptzip.models.layouts import COLUMN_EXPERT_TYPES, INTERLEAVED_EXPERT_TYPES, part_of
from adaptzip.models.names import FUSED_PARTS

_EXPERT = re.compile(r"^(.*)\.([^.\[\]]+)\[(\d+)\]$")
_OWN_EXPERT = re.compile(r"^(.*\.experts)\.(\d+)\.([^.]+)$")


@dataclass(frozen=True, eq=False)
class Layer:
    """Where a module of the adapter is in the model.

    Attributes:
        module: the layer; for an expert the layer that stacks the experts.
        parameter: its weight, in the layout `layout`.
        expert: the slice of a stacked parameter.
        part: which of how many equal parts of the slice's outputs, None for all of them.
    """

    module: nn.Module
    parameter: nn.Parameter
    layout: Layout
    expert: int | None = None
    part: tuple[int, int] | None = None

    @property
    def weight(self) -> Tensor:
        """The weight, or the expert's slice of it, or its part of that."""
        return self.cut(self.parameter.data)

    @property
    def thin(self) -> bool:
        """Whether the layer puts out its input times the weight and nothing else, as a router does not."""
        return isinstance(self.module, nn.Linear) or _is_conv1d(self.module)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) as the update counts them."""
        rows, columns = self.weight.shape[0], self.weight[0].numel()
        return (columns, rows) if self._lies_across else (rows, columns)

    def cut(self, tensor: Tensor) -> Tensor:
        """What of a tensor of the parameter's shape belongs to the module, as a view."""
        if self.expert is None:
            return tensor
        rows = tensor[self.expert]
        return part_of(rows, self.part, self.layout)

    def put(self, tensor: Tensor, part: Tensor) -> Tensor:
        """A tensor of the parameter's shape with another `cut`; differentiable."""
        if self.expert is None:
            return part
        whole = tensor.clone()
        self.cut(whole).copy_(part)
        return whole

    def as_update(self, tensor: Tensor) -> Tensor:
        """A tensor of the parameter's shape, such as its gradient, in the update's (out, in)."""
        return self.turned(self.cut(tensor))

    def turned(self, part: Tensor) -> Tensor:
        """A tensor of the weight's shape in the update's (out, in)."""
        return part.T if self._lies_across else part.reshape(part.shape[0], -1)

    def as_weight(self, update: Tensor) -> Tensor:
        """An update (out, in) as it lies in the weight."""
        return update.T if self._lies_across else update.reshape(self.weight.shape)

    @property
    def _lies_across(self) -> bool:
        return self.layout in TURNED


def find_layers(
    model: nn.Module, modules: Iterable[str], folder: Path, known: Mapping[str, nn.Module] | None = None
) -> dict[str, Layer]:
    """The layer of each module, whose name may have another prefix in the model than in the adapter.

    Args:
        known: the model's modules by name, where they are to be taken for others; None for its own.

    Raises:
        BaseModelError: if one is not there, or at several places.
        RefusedError: if it is a part of fused experts that have their outputs by turns.
    """
    layers = dict(model.named_modules()) if known is None else known
    return {name: _find(name, model, layers, folder) for name in modules}


def _find(name: str, model: nn.Module, known: Mapping[str, nn.Module], folder: Path) -> Layer:
    stacked, own = _EXPERT.match(name), _OWN_EXPERT.match(name)
    if stacked is not None:
        layer = known[resolve(stacked[1], known, folder)]
        weight, expert = _weight_of(layer, stacked[2], name, folder), int(stacked[3])
        if weight.ndim == 2 and expert == 0:
            # Such as a router's, which PEFT takes for a stack of one.
            return Layer(layer, weight, "expert")
        _check_expert(weight, expert, name, folder)
        return Layer(layer, weight, "expert", expert)
    if own is not None and own[3] in FUSED_PARTS and not is_there(name, known):
        attribute, part = FUSED_PARTS[own[3]]
        layer, expert = known[resolve(own[1], known, folder)], int(own[2])
        weight = _weight_of(layer, attribute, name, folder)
        _check_expert(weight, expert, name, folder)
        across = _is_one_of(COLUMN_EXPERT_TYPES, model)
        if part is not None and _is_one_of(INTERLEAVED_EXPERT_TYPES, model):
            raise RefusedError(
                f"{folder}: {attribute} has the outputs of the experts' projections by turns, the adapter has {name} "
                "apart",
                hint="train the adapter on the fused parameter (target_parameters)",
            )
        return Layer(layer, weight, "expert_transposed" if across else "expert", expert, part)
    layer = known[resolve(name, known, folder)]
    return Layer(layer, _weight_of(layer, "weight", name, folder), _layout(layer))


def _is_one_of(types: frozenset[str], model: Any) -> bool:
    """Whether a model, or its language model, is of one of some types."""
    config = model.config
    return not types.isdisjoint({config.model_type, config.get_text_config().model_type})


def _check_expert(weight: nn.Parameter, expert: int, name: str, folder: Path) -> None:
    if weight.ndim != 3 or expert >= len(weight):
        raise BaseModelError(f"{folder}: {name} is none of the {len(weight)} experts there", hint=WHICH)


def add_adapter(model: nn.Module, adapter: Adapter, folder: Path, *, merged: bool = False) -> dict[str, Layer]:
    """Add an adapter's updates to a model's weights, and put its extras in their places.

    Args:
        merged: see `place_extras`.

    Returns:
        The layer of each module.

    Raises:
        BaseModelError: if a module or an extra finds no place, or has another shape.
        RefusedError: if a part of fused experts has its outputs by turns, or updates were trained tied and PEFT does
            not load them.
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
        _check_tied(adapter, found, folder)
        if not merged:
            found |= part_updated(model, adapter, found)
        layers = {name: oriented(layer, adapter.modules[name]) for name, layer in found.items()}
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
    for name, others in updated_apart(model, adapter, layers):
        layer = layers[name]
        parameter = nn.Parameter(layer.parameter.detach().clone())
        layer.module.weight = parameter
        found[name] = replace(layer, parameter=parameter)
        warn(
            f"{name} shares its weight with {others[0]}: the update counts in {name} alone, as in the live model; in a "
            "merged model it counts in both"
        )
    return found


def updated_apart(model: nn.Module, adapter: Adapter, layers: Mapping[str, Layer]) -> Iterator[tuple[str, list[str]]]:
    """Updated layers that share their weight with others, and these, where the live model counts an update in its own
    layer alone; each is looked for when it is its turn.
    """
    tied = adapter.resolved.updates_stay_tied
    for name, layer in layers.items():
        others = [module for module in sharing(model, layer.parameter) if model.get_submodule(module) != layer.module]
        mine = {id(other.module) for other in layers.values() if other.parameter is layer.parameter}
        if layer.expert is None and others and not (tied and len(mine) == 1):
            yield name, others


def _check_tied(adapter: Adapter, layers: Mapping[str, Layer], folder: Path) -> None:
    """Refuse what was trained tied where PEFT does not load it so, as in models whose embedding is called `shared`."""
    if not adapter.resolved.trained_tied or adapter.resolved.updates_stay_tied:
        return
    first: dict[int, str] = {}
    for name, layer in layers.items():
        other = first.setdefault(id(layer.parameter), name)
        if other != name and layer.expert is None:
            raise RefusedError(
                f"{folder}: {other} and {name} share one weight and were trained tied (ensure_weight_tying), and PEFT "
                "itself does not load that from the adapter",
                hint="train the adapter without ensure_weight_tying",
            )


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
    return "transposed" if _is_conv1d(layer) else "linear"


def _is_conv1d(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Conv1D"


def oriented(layer: Layer, factors: LoraFactors) -> Layer:
    """An expert's slice lies as its shape says, or where that is square as the adapter says."""
    if layer.expert is None or layer.part is not None:
        return layer
    square = factors.shape[0] == factors.shape[1]
    lies = tuple(layer.weight.shape)
    told = "expert_transposed" in (factors.layout, layer.layout)
    transposed = told if square else lies == factors.shape[::-1]
    return replace(layer, layout="expert_transposed" if transposed else "expert")


def put_before(layer: nn.Module, function: Function) -> Callable[[], None]:
    """Put a function before a layer, whose first argument it takes; returns what takes it away."""
    return layer.register_forward_pre_hook(lambda module, arguments: (function(arguments[0]), *arguments[1:])).remove


def put_behind(layer: nn.Module, function: Function) -> Callable[[], None]:
    """Put a function behind a layer; returns what takes it away."""
    return layer.register_forward_hook(lambda module, arguments, output: function(output)).remove
