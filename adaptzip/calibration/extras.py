"""An adapter's extras in a model that is in memory: heads, embeddings, biases and token rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptzip.adapter import Adapter
from adaptzip.base.names import STORED_SPELLINGS
from adaptzip.checkpoints.peft.extras import extra_target, is_copied, token_indices
from adaptzip.errors import BaseModelError, RefusedError

_EMBEDDINGS = ("embed_tokens", "lm_head")
"""Names of modules by which PEFT knows that embeddings are trained."""
WHICH = "is this the base model that the adapter was trained on?"


def extra_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The extras that replace a whole tensor of the model, by the tensor's name."""
    return {name: tensor for name, (_, tensor) in _replacements(adapter).items()}


def _replacements(adapter: Adapter) -> dict[str, tuple[str, Tensor]]:
    """The same with their keys."""
    found = {}
    for key, tensor in adapter.extras.items():
        role, name = extra_target(key, adapter.meta.config, adapter.modules)
        if role == "replace":
            found[name] = (key, tensor)
    return found


def place_tensors(model: nn.Module, adapter: Adapter, folder: Path, *, merged: bool = False) -> None:
    """Put extras in their places, as PEFT does.

    A module that PEFT trained a copy of (`modules_to_save`) shares its weights with no other module any more, unless
    its configuration ensures that they stay tied. Every other extra is written into the weight that there is, but for
    token rows of a module that PEFT leaves apart from those it shares its weight with.

    Args:
        merged: token rows are written into a shared weight, as in a merged model.

    Raises:
        BaseModelError: if an extra finds no place, or has another shape.
    """
    stay_tied = keeps_tied(adapter.meta.config, "modules_to_save")
    for name, (key, tensor) in _replacements(adapter).items():
        if not is_there(name, model.state_dict()):
            runs = type(model).__name__
            raise BaseModelError(
                f"{folder}: {runs} has no {name}, which the adapter brings beside its updates", hint=WHICH
            )
        place = resolve(name, model.state_dict(), folder)
        if is_copied(key, name, adapter.meta.config) and not stay_tied:
            _part(model, place)
        target = model.state_dict()[place]
        if target.shape != tensor.shape:
            raise BaseModelError(
                f"{folder}: {place} is {list(target.shape)}, the adapter brings {list(tensor.shape)}", hint=WHICH
            )
        target.copy_(tensor)
    _place_rows(model, adapter, folder, merged)


def keeps_tied(config: Mapping[str, Any], field: str) -> bool:
    """Whether PEFT ties what it trains of the embeddings: on request, and where `field` has one by its usual name."""
    named = config.get(field) or ()
    if not config.get("ensure_weight_tying"):
        return False
    if isinstance(named, str):
        return any(re.fullmatch(named, name) for name in _EMBEDDINGS)
    return any(str(name).rpartition(".")[2] in _EMBEDDINGS for name in named)


def _place_rows(model: nn.Module, adapter: Adapter, folder: Path, merged: bool) -> None:
    state = model.state_dict()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for key, rows in adapter.extras.items():
        role, name = extra_target(key, adapter.meta.config, adapter.modules)
        named = token_indices(key, adapter.meta.config)
        if role == "token_rows" and named is not None:
            found[resolve(name, state, folder)] = (torch.tensor(named), rows)
    tied = _tied_with_input(model) if found else set()
    one = bool(tied) and not any(place.rpartition(".")[0] in tied for place in found)
    for place in sorted(found, key=list(state).index):
        if not merged and not (one and model.get_submodule(place.rpartition(".")[0]) is _input(model)):
            _part(model, place)
        indices, rows = found[place]
        target, last = model.state_dict()[place], int(indices.max())
        if rows.shape[1:] != target.shape[1:] or last >= len(target):
            raise BaseModelError(
                f"{folder}: {place} is {list(target.shape)}, the adapter brings rows of {rows.shape[1]} up to the one "
                f"of token {last}",
                hint=WHICH,
            )
        target.index_copy_(0, indices.to(target.device), rows.to(target))


def _input(model: Any) -> nn.Module:
    """The input embeddings."""
    found: nn.Module = model.get_input_embeddings()
    return found


def _tied_with_input(model: Any) -> set[str]:
    """The modules that PEFT ties to trained rows of the input embeddings: those that the model's classes declare."""
    if not model.config.to_dict().get("tie_word_embeddings") or not isinstance(model._tied_weights_keys, dict):
        return set()
    own = set(sharing(model, model.get_input_embeddings().weight))
    declared = {
        f"{name}.{key}".lstrip("."): f"{name}.{source}".lstrip(".").rpartition(".")[0]
        for name, module in model.named_modules()
        for key, source in dict(getattr(module, "_tied_weights_keys", None) or ()).items()
    }
    return {key.rpartition(".")[0] for key, source in declared.items() if source in own}


def _part(model: nn.Module, place: str) -> None:
    """Give a module whose parameter other modules have as well a copy of its own."""
    path, _, attribute = place.rpartition(".")
    module = model.get_submodule(path)
    if attribute in module._parameters and len(sharing(model, getattr(module, attribute))) > 1:
        above, _, name = path.rpartition(".")
        setattr(model.get_submodule(above), name, deepcopy(module))


def sharing(model: nn.Module, parameter: nn.Parameter) -> list[str]:
    """Names of the modules that have a parameter."""
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if any(own is parameter for own in module._parameters.values())
    ]


def grow_vocabulary(model: Any, adapter: Adapter, folder: Path) -> int:
    """Make room for the tokens of an embedding that the adapter brings whole, where they are more than the model's.

    Returns:
        How many tokens more.

    Raises:
        RefusedError: if it brings no rows for them in the other embedding.
    """
    grown = _grown(model, adapter)
    if grown is None:
        return 0
    before = len(model.get_input_embeddings().weight)
    model.resize_token_embeddings(grown, mean_resizing=False)
    state = model.state_dict(keep_vars=True)
    brought = {id(state[resolve(name, state, folder)]) for name in extra_tensors(adapter)}
    for which in ("input", "output"):
        table = _table(model, which)
        if table is not None and id(table) not in brought:
            name = next(name for name, tensor in state.items() if tensor is table)
            raise RefusedError(
                f"{folder}: the adapter brings {grown} tokens, and no {name} for them",
                hint="give a base model that was resized for them",
            )
    return grown - before


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


def is_there(name: str, known: Mapping[str, object]) -> bool:
    """Whether `resolve` finds `name`, at one place or at several."""
    return any(_places(spelling, known) for spelling in _spellings(name))


def resolve(name: str, known: Mapping[str, object], folder: Path) -> str:
    """`name` among the model's own names: as it is, as files spell it, or with another prefix before the layer list.

    Raises:
        BaseModelError: if it is not there, or at several places.
    """
    for spelling in _spellings(name):
        places = _places(spelling, known)
        if len(places) == 1:
            return places[0]
        if places:
            raise BaseModelError(f"{folder}: {name} fits at several places: {', '.join(places[:3])}", hint=WHICH)
    raise BaseModelError(f"{folder}: the model has no {name}", hint=WHICH)


def _spellings(name: str) -> Iterator[str]:
    """A name, and what models in memory may call it."""
    yield name
    for family in STORED_SPELLINGS:
        spelling = name
        for memory, disk in family:
            spelling = spelling.replace(disk, memory)
        if spelling != name:
            yield spelling


def _places(name: str, known: Mapping[str, object]) -> list[str]:
    """Where a name fits with the least change of its prefix, best kept in its other parts."""
    if name in known:
        return [name]
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    for cut in range(first + 1):
        tail = ".".join(parts[cut:])
        if tail in ("weight", "bias"):
            break
        places = [other for other in known if other == tail or other.endswith(f".{tail}")]
        if places:
            kept = [len({*parts[:cut]} & {*place.removesuffix(tail).split(".")}) for place in places]
            return [place for place, count in zip(places, kept, strict=True) if count == max(kept)]
    return []
