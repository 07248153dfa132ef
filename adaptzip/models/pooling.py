"""How a text's embedding is made of its tokens', which a folder of sentence-transformers says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.errors import BaseModelError, RefusedError, warn
from adaptzip.files.json_values import json_values
from adaptzip.files.names import is_file_name
from adaptzip.files.regular import read_regular
from adaptzip.models.files import AGAIN, load_json

_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""What sentence-transformers called its modes before version 5, in the order in which it joins them."""
_KNOWN = ("Transformer", "Pooling", "Normalize")
"""Modules that are run; lengths make no difference to a cosine."""


@dataclass(frozen=True)
class Pooling:
    """What a folder says of its embeddings.

    Attributes:
        modes: of pooling, whose vectors are joined.
    """

    modes: tuple[str, ...] = ("mean",)

    def embed(self, states: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (texts, width) from last hidden states (texts, longest, hidden) and where they are no padding."""
        return torch.cat([_MODES[mode](states, mask) for mode in self.modes], dim=1)


def read_pooling(folder: Path) -> Pooling:
    """What a base model's folder says of its embeddings; the mean where it says nothing.

    An AdaptzipWarning names modules behind the pooling.

    Raises:
        BaseModelError: if modules.json or the pooling's config.json is damaged.
        RefusedError: if it has a mode of pooling that is not known.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return Pooling()
    modes: tuple[str, ...] = ("mean",)
    beyond = []
    for module in _modules(path):
        kind, place = module["type"].rpartition(".")[2], module["path"]
        if kind == "Pooling":
            modes = _modes(folder / place / "config.json")
        elif kind not in _KNOWN:
            beyond.append(place or kind)
    if beyond:
        warn(f"{folder}: {', '.join(beyond)} of modules.json is not run: embeddings before it are compared")
    return Pooling(modes)


def _modules(path: Path) -> list[dict[str, str]]:
    try:
        found: Any = json_values(read_regular(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(f"{path}: is not readable JSON ({error})", hint=AGAIN) from error
    if not isinstance(found, list) or not all(_is_module(entry) for entry in found):
        raise BaseModelError(f"{path}: expected a list of modules, each with its type and path", hint=AGAIN)
    return found


def _is_module(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        return False
    place = entry.get("path")
    return place == "" or is_file_name(place)


def _modes(path: Path) -> tuple[str, ...]:
    config = load_json(path)
    named = config.get("pooling_mode", [mode for key, mode in _LEGACY.items() if config.get(key)] or ["mean"])
    modes = (named,) if isinstance(named, str) else tuple(named) if isinstance(named, list) else (named,)
    unknown = next((mode for mode in modes if mode not in _MODES), None)
    if unknown is not None:
        raise RefusedError(f"{path}: the pooling {unknown!r} is not known", hint=f"known are {', '.join(_MODES)}")
    return modes


def _at(states: Tensor, places: Tensor) -> Tensor:
    """The states (texts, hidden) of one token of each text."""
    return states[torch.arange(len(states), device=states.device), places]


def _mean(states: Tensor, weights: Tensor) -> Tensor:
    return (states * weights.unsqueeze(2)).sum(1) / weights.sum(1, keepdim=True)


_MODES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda states, mask: _at(states, mask.long().argmax(1)),
    "max": lambda states, mask: states.masked_fill(~mask.unsqueeze(2), -torch.inf).amax(1),
    "mean": lambda states, mask: _mean(states, mask.to(states)),
    "mean_sqrt_len_tokens": lambda states, mask: _mean(states, mask.to(states)) * mask.sum(1, keepdim=True).sqrt(),
    "weightedmean": lambda states, mask: _mean(states, mask.to(states) * mask.cumsum(1)),
    "lasttoken": lambda states, mask: _at(states, mask.shape[1] - 1 - mask.flip(1).long().argmax(1)),
}
"""(texts, hidden) of the last hidden states (texts, longest, hidden) and where they are no padding (texts, longest)."""
