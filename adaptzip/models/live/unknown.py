"""Weights that the base does not tell, which transformers fills with random numbers: the adapter brings what is run.

Until it has, they are NaN, so that what is left of them is found and no random number gets into an output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptzip.core.adapter import Adapter
from adaptzip.errors import RefusedError
from adaptzip.models.extras import extra_tensors

_NAN = float("nan")


def forget(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Make NaN of parameters, and of all that share them.

    Returns:
        Why each is refused if it stays so (`check_known`), by its name.
    """
    known = every_parameter(model)
    lost = [known[name] for name in names if name in known]
    for parameter in lost:
        parameter.data.fill_(_NAN)
    why = f"which {type(model).__name__} has, is neither in the base nor in the adapter"
    return {name: f"{name}, {why}" for name, own in known.items() if any(own is parameter for parameter in lost)}


def grow_vocabulary(model: Any, adapter: Adapter) -> dict[str, str]:
    """Make room for the tokens of an embedding that the adapter brings whole, where they are more than the model's.

    Returns:
        As `forget`, of what has rows for them now.
    """
    grown = _grown(model, adapter)
    if grown is None:
        return {}
    before = {name: parameter.shape for name, parameter in every_parameter(model).items()}
    model.resize_token_embeddings(grown, mean_resizing=False)
    _split(model)
    larger = {name: own for name, own in every_parameter(model).items() if own.shape != before.get(name)}
    for name, parameter in larger.items():
        _forget_all_but(parameter.data, before.get(name))
    return {name: f"the adapter brings {grown} tokens, and no {name} for them" for name in larger}


def _split(model: nn.Module) -> None:
    """Make modules of their own, with one weight, of an embedding that has several names after it was resized."""
    seen: set[int] = set()
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Embedding) and id(module) in seen:
            above, _, own = name.rpartition(".")
            setattr(model.get_submodule(above), own, deepcopy(module, {id(module.weight): module.weight}))
        seen.add(id(module))


def check_known(model: nn.Module, unknown: Mapping[str, str], folder: Path) -> None:
    """Refuse a model that still has NaN where nothing was told.

    Raises:
        RefusedError: if it has.
    """
    known = every_parameter(model)
    for name, why in unknown.items():
        if name in known and bool(known[name].isnan().any()):
            raise RefusedError(f"{folder}: {why}", hint="give a base model that has it, such as one that was resized")


def _forget_all_but(tensor: Tensor, kept: torch.Size | None) -> None:
    """Make NaN of a tensor, but for its first numbers along each dimension."""
    if kept is None:
        tensor.fill_(_NAN)
        return
    own = tuple(slice(size) for size in kept)
    first = tensor[own].clone()
    tensor.fill_(_NAN)[own] = first


def _grown(model: nn.Module, adapter: Adapter) -> int | None:
    known = {id(table) for table in (_table(model, "input"), _table(model, "output")) if table is not None}
    sizes = {name: len(table) for name, table in model.state_dict(keep_vars=True).items() if id(table) in known}
    for name, tensor in extra_tensors(adapter).items():
        own = next((size for other, size in sizes.items() if other == name or other.endswith(f".{name}")), None)
        if own is not None and len(tensor) > own:
            return len(tensor)
    return None


def _table(model: Any, which: str) -> Tensor | None:
    """The weight of the input or output embeddings, where the model has such."""
    layer = model.get_input_embeddings() if which == "input" else model.get_output_embeddings()
    return getattr(layer, "weight", None)


def every_parameter(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by every name that they have."""
    return dict(model.named_parameters(remove_duplicate=False))
