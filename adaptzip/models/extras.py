"""An adapter's extras in a model that is in memory: heads, embeddings, biases and token rows."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptzip.core.adapter import Adapter
from adaptzip.errors import BaseModelError, CheckpointError
from adaptzip.models.spellings import spellings

WHICH = "is this the base model that the adapter was trained on?"


def extra_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The extras that replace a whole tensor of the model, by the tensor's name."""
    return {name: tensor for name, (_, tensor) in _replacements(adapter).items()}


def _replacements(adapter: Adapter) -> dict[str, tuple[str, Tensor]]:
    """The same with their keys."""
    found = {}
    effects = adapter.resolved.extras
    for key, tensor in adapter.extras.items():
        effect = effects[key]
        if effect.role == "replace":
            found[effect.tensor] = (key, tensor)
    return found


def check_originals(adapter: Adapter) -> None:
    """Raise a CheckpointError if the original of a module is there without its trained copy."""
    effects = adapter.resolved.extras
    replaced = {effects[key].tensor for key in adapter.extras if effects[key].role == "replace"}
    for key in adapter.extras:
        if effects[key].role == "original" and effects[key].tensor not in replaced:
            raise CheckpointError(
                f"{key} is the untrained original of a module whose trained copy is not there",
                hint="save the adapter again with PEFT's save_pretrained",
            )


def check_whole(key: str, tensor: Tensor) -> None:
    """Raise a CheckpointError if an extra holds no number, as where a ZeRO-3 run saved its own shard alone."""
    if not tensor.numel():
        raise CheckpointError(
            f"{key} is empty ({list(tensor.shape)}), expected a trained tensor",
            hint="a distributed training run may have saved only its shards; gather them and save again",
        )


def place_tensors(model: nn.Module, adapter: Adapter, folder: Path, *, merged: bool = False) -> None:
    """Put extras in their places, as PEFT does.

    A module of which a copy was trained shares its weights with no other module any more, unless the adapter says that
    they stay tied. Every other extra is written into the weight that there is, but for token rows of a module that PEFT
    leaves apart from those it shares its weight with. The original of a copied module counts in the modules that share
    its weight, as where the vocabulary was enlarged.

    Args:
        merged: token rows are written into a shared weight, as in a merged model.

    Raises:
        BaseModelError: if an extra finds no place, or has another shape.
        CheckpointError: if the original of a module is there without its copy.
    """
    effects = adapter.resolved
    check_originals(adapter)
    for key, tensor in adapter.extras.items():
        if effects.extras[key].role == "original":
            _write(model, _place_of(model, effects.extras[key].tensor, folder), tensor, folder)
    for name, (key, tensor) in _replacements(adapter).items():
        place = _place_of(model, name, folder)
        if effects.extras[key].copied and not effects.copies_stay_tied:
            _part(model, place)
        _write(model, place, tensor, folder)
    _place_rows(model, adapter, folder, merged)


def _place_of(model: nn.Module, name: str, folder: Path) -> str:
    known = model.state_dict()
    if not is_there(name, known):
        runs = type(model).__name__
        raise BaseModelError(f"{folder}: {runs} has no {name}, which the adapter brings beside its updates", hint=WHICH)
    return resolve(name, known, folder)


def _write(model: nn.Module, place: str, tensor: Tensor, folder: Path) -> None:
    target = model.state_dict()[place]
    if target.shape != tensor.shape:
        raise BaseModelError(
            f"{folder}: {place} is {list(target.shape)}, the adapter brings {list(tensor.shape)}", hint=WHICH
        )
    target.copy_(tensor)


def _place_rows(model: nn.Module, adapter: Adapter, folder: Path, merged: bool) -> None:
    state = model.state_dict()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    effects = adapter.resolved.extras
    for key, rows in adapter.extras.items():
        effect = effects[key]
        if effect.role == "token_rows" and effect.rows is not None:
            found[resolve(effect.tensor, state, folder)] = (torch.tensor(effect.rows), rows)
    tied = _tied_with_input(model) if found else set()
    alike = {place for place in found if _alike_input(model, place, found)}
    one = bool(tied) and not any(place.rpartition(".")[0] in tied for place in found.keys() - alike)
    for place in sorted(found, key=list(state).index):
        if not merged and not (one and place in alike):
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


def _alike_input(model: Any, place: str, found: Mapping[str, tuple[Tensor, Tensor]]) -> bool:
    """Whether a tensor is the input embeddings, or has the same rows, as PEFT saves them of modules that it ties."""
    own = model.get_input_embeddings()
    if model.get_submodule(place.rpartition(".")[0]) is own:
        return True
    first = next((name for name in found if model.get_submodule(name.rpartition(".")[0]) is own), None)
    return first is not None and all(map(torch.equal, found[place], found[first]))


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


def is_there(name: str, known: Mapping[str, object]) -> bool:
    """Whether `resolve` finds `name`, at one place or at several."""
    return any(_places(spelling, known) for spelling in spellings(name, in_memory=True))


def resolve(name: str, known: Mapping[str, object], folder: Path) -> str:
    """`name` among the model's own names: as it is, as files spell it, or with another prefix before the layer list.

    Raises:
        BaseModelError: if it is not there, or at several places.
    """
    for spelling in spellings(name, in_memory=True):
        places = _places(spelling, known)
        if len(places) == 1:
            return places[0]
        if places:
            raise BaseModelError(f"{folder}: {name} fits at several places: {', '.join(places[:3])}", hint=WHICH)
    raise BaseModelError(f"{folder}: the model has no {name}", hint=WHICH)


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
