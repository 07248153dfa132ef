"""An adapter of one model of a pipeline in the names, and in the cuts, of a base model that has others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.beside import Layer, Respelled, carried, turned_factors
from adaptzip.checkpoints._image.fusing import split_rows
from adaptzip.checkpoints._image.rules import Rule, numbered
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import CheckpointError, RefusedError
from adaptzip.restoring.merging.image.views import LEAVES, Component


def fitted(adapter: Adapter, component: Component) -> Adapter:
    """The same update under names of the component's tensors; what has none there keeps its own.

    A fused layer comes apart into the layers that the base has for it.

    Raises:
        CheckpointError: if two modules change one layer of the base.
        RefusedError: if the rows of a fused layer do not come apart.
    """
    modules: dict[str, LoraFactors] = {}
    for path, factors in adapter.modules.items():
        for name, part in _placed(component, path, factors):
            if name in modules:
                raise CheckpointError(
                    f"module {path} and another of the adapter both change {name}",
                    hint="it names one layer as two implementations do: save it again with the program that trained it",
                )
            modules[name] = part
    return carried(adapter, Respelled(dict(sorted(modules.items())), lambda path: _layer(component, path)))


def _placed(component: Component, path: str, factors: LoraFactors) -> Iterator[tuple[str, LoraFactors]]:
    if _stored(component, path):
        yield path, turned_factors(factors) if path in component.turned else factors
    elif (name := unet.to_diffusers(path)) is not None:
        yield (name if _stored(component, name) else path), factors
    elif (rule := _rule(component, path)) is not None:
        yield from _apart(path, rule, factors)
    else:
        yield path, factors


def _apart(path: str, rule: Rule, factors: LoraFactors) -> Iterator[tuple[str, LoraFactors]]:
    try:
        parts = split_rows(path, turned_factors(factors) if rule.swaps(factors.shape) else factors, rule.shares)
    except RefusedError as error:
        raise RefusedError(
            str(error), hint="merge it into a file of the original model, which has this layer as one"
        ) from error
    for name, part in zip(_names(rule, path), parts, strict=True):
        # Files have rows of zeros for layers that they leave as they are.
        if len(parts) == 1 or bool(part.B.any()) or part.magnitude is not None or part.bias is not None:
            yield name, part


def _layer(component: Component, path: str) -> Layer | None:
    """What a layer of which the adapter brings a tensor is called in the base."""
    if any(f"{path}.{leaf}" in component.model.tensors for leaf in LEAVES) or path in component.model.tensors:
        return Layer(path, path in component.turned)
    if (name := unet.to_diffusers(path)) is not None:
        return Layer(name)
    rule = _rule(component, path)
    if rule is None:
        return None
    name, *others = _names(rule, path)
    if others:
        return Layer(path, parts=tuple(zip((name, *others), rule.shares, strict=True)))
    weight = f"{name}.weight"
    shape = component.model.stored(weight).shape if weight in component.model.tensors else ()
    return Layer(name, rule.halves_swapped and len(shape) > 1 and rule.swaps((shape[0], shape[1])))


def _rule(component: Component, path: str) -> Rule | None:
    """The rule by which the base has another name for a layer with an original one."""
    rule = None if component.family is None else component.family.of_original(path)
    return rule if rule is not None and any(_stored(component, name) for name in _names(rule, path)) else None


def _names(rule: Rule, path: str) -> tuple[str, ...]:
    return tuple(name.replace("#", numbered(path)[1]) for name in rule.diffusers)


def _stored(component: Component, path: str) -> bool:
    return f"{path}.weight" in component.model.tensors


def modules_of(adapter: Adapter) -> Mapping[str, tuple[int, ...]]:
    """The shape of each module's update, by path."""
    return {path: factors.shape for path, factors in adapter.modules.items()}
