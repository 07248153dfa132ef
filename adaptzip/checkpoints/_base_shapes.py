"""The shapes of base weights, for files that do not tell how wide the updates in them are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod

from adaptzip.checkpoints._base import BaseTensors, Checkpoint
from adaptzip.checkpoints._parts import needed_base
from adaptzip.core.layouts import Layout
from adaptzip.errors import CheckpointError


def base_of(source: Checkpoint, modules: Collection[str], why: str) -> BaseTensors:
    """The base model's tensors, by the names that the adapter of these modules has for them.

    Args:
        why: what cannot be told without them, after "its base model is needed".

    Raises:
        RefusedError: if no base model was given.
        BaseModelError: if it is none, or lacks a module.
    """
    return needed_base(source, why).named_by(list(modules))


def sides(source: Checkpoint, modules: Collection[str], layout: Layout, why: str) -> dict[str, tuple[int, int]]:
    """The (out, in) of each module's weight, which is a matrix.

    Args:
        layout: how the weights lie.
        why: as for `base_of`.

    Raises:
        RefusedError, BaseModelError: as `base_of`.
        CheckpointError: if the base has no matrix there.
    """
    base = base_of(source, modules, why)
    found: dict[str, tuple[int, int]] = {}
    for name in modules:
        shape = base.shape(f"{name}.weight")
        if shape is None or len(shape) != 2:
            there = "no weight" if shape is None else f"a weight {list(shape)}"
            raise CheckpointError(
                f"{source.weights}: module {name} has {there} in the base model, expected that of a linear layer",
                hint="is this the base model that the adapter was trained on?",
            )
        found[name] = (shape[1], shape[0]) if layout == "transposed" else (shape[0], shape[1])
    return found


def kernels(source: Checkpoint, shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """The kernels of the modules, where a base model was given and stores their weights as they are: () without one.

    Args:
        shapes: (out, in) of each module's update, a kernel flattened into `in`.

    Raises:
        BaseModelError: as `base_of`.
        CheckpointError: if a weight is of another size.
    """
    if source.base is None:
        return {}
    base, found = source.base.named_by(list(shapes)), {}
    for name, (out, width) in shapes.items():
        shape = base.shape(f"{name}.weight")
        if shape is None:
            continue
        if (shape[0], prod(shape[1:])) != (out, width):
            raise CheckpointError(
                f"{source.weights}: module {name} has an update [{out}, {width}], but the base's weight is "
                f"{list(shape)}",
                hint="is this the base model that the adapter was trained on?",
            )
        found[name] = shape[2:]
    return found
