"""The base model under updates that come from outside, so that gradients reach whatever they were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.function_method import Function
from adaptzip.distillation.losses import Seen
from adaptzip.models.live.layers import Layer, put_behind
from adaptzip.models.live.running import NO_LABEL, Batch, LoadedModel

Update = tuple[Tensor, Tensor] | Function
"""A (rank, in) and B (out, rank) of a module, or a function of its outputs."""
Factors = Mapping[str, Update]
"""The update of each module."""


@dataclass(eq=False)
class Guest:
    """A model whose layers take updates from outside, so that gradients reach what made them.

    Linear layers add the update as two thin products. Everything else, layers with a DoRA magnitude, and weights that
    several layers share, have the whole weight put together for each pass, as it is in a merged model.

    Attributes:
        loaded: the base model with the adapter's extras, without its updates.
        magnitudes: DoRA magnitudes (out,) by module.
        behind: layers that a function may stand behind, by module, beside those of the adapter.
        kept: what stands in the place of parameters, such as a head that the file keeps in fewer bits.
    """

    loaded: LoadedModel
    magnitudes: Mapping[str, Tensor] = field(default_factory=dict)
    behind: Mapping[str, Layer] = field(default_factory=dict)
    kept: Mapping[nn.Parameter, Tensor] = field(default_factory=dict)

    def __call__(self, batch: Batch, factors: Factors) -> Tensor:
        """The model's rows for a batch under updates."""
        with self.under(factors):
            return self.loaded(batch)

    def look(self, batch: Batch, factors: Factors, *, hidden: bool = False, modules: bool = False) -> Seen:
        """The rows, and with `hidden` and `modules` what is inside the model."""
        outputs: list[Tensor] = []
        states: list[tuple[str, Tensor]] = []
        with self.under(factors), ExitStack() as stack:
            if modules:
                for layer in dict.fromkeys(layer.module for layer in self.loaded.layers.values()):
                    stack.callback(layer.register_forward_hook(_keeper(outputs)).remove)
            if hidden:
                stack.enter_context(_hidden_states(self.loaded.model, states))
            rows = self.loaded(batch)
        written = batch.targets != NO_LABEL
        kept = [_real(state, written if key.startswith("decoder") else batch.mask) for key, state in states]
        return Seen(rows, kept, [_real(output, batch.mask, written) for output in outputs])

    @contextmanager
    def under(self, factors: Factors) -> Iterator[None]:
        """The updates are on the model within this context."""
        undo: list[Callable[[], None]] = []
        whole = dict(self.kept)
        try:
            for name, update in factors.items():
                if not isinstance(update, tuple):
                    undo.append(put_behind(self.behind[name].module, update))
                    continue
                A, B = update
                layer = self.loaded.layers[name]
                if self._thin(name, layer):
                    if len(A):
                        undo.append(layer.module.register_forward_hook(_adder(A, B)).remove)
                else:
                    whole[layer.parameter] = self._changed(whole.get(layer.parameter, layer.parameter), name, A, B)
            for parameter, weight in whole.items():
                undo += [_swap(module, attribute, weight) for module, attribute in self._places[parameter]]
            yield
        finally:
            for take_back in undo:
                take_back()

    def _thin(self, name: str, layer: Layer) -> bool:
        whole = layer.expert is not None or layer.layout == "expert" or name in self.magnitudes
        return layer.thin and not whole and len(self._places[layer.parameter]) == 1

    @cached_property
    def _places(self) -> Mapping[nn.Parameter, list[tuple[nn.Module, str]]]:
        """Where the layers' weights and what is replaced are used: tied ones at several places."""
        changed = [*(layer.parameter for layer in self.loaded.layers.values()), *self.kept]
        places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {parameter: [] for parameter in changed}
        for module in self.loaded.model.modules():
            for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                if parameter in places:
                    places[parameter].append((module, attribute))
        return places

    def _changed(self, weight: Tensor, name: str, A: Tensor, B: Tensor) -> Tensor:
        """A weight with one module's update."""
        layer = self.loaded.layers[name]
        update = layer.as_weight(B @ A)
        own = layer.cut(weight)
        changed = own + update
        if name in self.magnitudes:
            changed = _dora(changed, self.magnitudes[name], layer)
        return changed if layer.expert is None else layer.put(weight, changed)


def _adder(A: Tensor, B: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def add(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        x = arguments[0]
        return output + functional.linear(functional.linear(x, A.to(x.dtype)), B.to(x.dtype))

    return add


def _keeper(found: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        # Layers that stack experts may put out their routing as well.
        found.append(output[0] if isinstance(output, tuple) else output)

    return keep


@contextmanager
def _hidden_states(model: nn.Module, found: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Collect the hidden states that a transformers model can tell on request, and what it calls them."""

    def ask(module: nn.Module, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**options, "output_hidden_states": True}

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        for key in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
            found.extend((key, state) for state in getattr(output, key, None) or ())

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(ask, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(keep).remove)
        yield


def _real(states: Tensor, *masks: Tensor) -> Tensor:
    """(tokens, width) of the tokens that are no padding by the first mask that fits; all where none does."""
    fitting = (mask for mask in masks if states.ndim == 3 and states.shape[:2] == mask.shape)
    mask = next(fitting, None)
    return states if mask is None else states[mask]


def _swap(module: nn.Module, attribute: str, weight: Tensor) -> Callable[[], None]:
    """Put a tensor in a parameter's place; returns what undoes it."""
    parameter = module._parameters.pop(attribute)
    setattr(module, attribute, weight)

    def undo() -> None:
        delattr(module, attribute)
        module.register_parameter(attribute, parameter)

    return undo


def _dora(changed: Tensor, magnitude: Tensor, layer: Layer) -> Tensor:
    """DoRA's weight: the sum with the norm of each output's row replaced; as in the paper the norm has no gradient."""
    total = layer.turned(changed)
    outputs = magnitude.ndim == 1
    norm = total.detach().norm(dim=1 if outputs else 0, keepdim=True)
    return layer.as_weight(total * (magnitude.to(total).reshape(norm.shape) / norm))


def magnitudes_of(modules: Mapping[str, LoraFactors]) -> dict[str, Tensor]:
    """DoRA magnitudes of an adapter's modules."""
    return {name: module.magnitude for name, module in modules.items() if module.magnitude is not None}
