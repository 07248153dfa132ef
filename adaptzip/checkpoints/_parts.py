"""What the files of many dialects have in common: keys that name a module and a part of it, and whole tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._config import shown
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.errors import CheckpointError

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
AGAIN = "save the adapter again with the program that trained it"
DIFFERENT = "the weights and the configuration belong to different adapters"
_LARGEST = 1e30

Parts = Mapping[str, str]
"""The keys of one module's tensors, by part."""


def peft_parts(
    source: Checkpoint, key: re.Pattern[str], own: str, what: str
) -> tuple[dict[str, dict[str, str]], dict[str, Tensor]]:
    """The keys of one of PEFT's methods by module and part, in sorted order, and all other tensors as extras.

    Args:
        key: matches a whole key of the method, with the module's name and the part as its groups.
        own: what is in the keys of the method and in no other's, such as ".delora_".
        what: what the method is called.

    Raises:
        CheckpointError: for a key without meaning, or if there is none of the method.
    """
    modules: dict[str, dict[str, str]] = {}
    extras = {}
    for name, tensor in source.tensors.items():
        found = key.fullmatch(name)
        if found is not None:
            modules.setdefault(found[1], {})[found[2]] = name
        elif not name.startswith(PREFIX) or own in name:
            raise CheckpointError(
                f"{source.weights}: the key {name} has no meaning in {what}", hint=f"expected {PREFIX}<module>{own}..."
            )
        else:
            extras[name] = tensor
    if not modules:
        raise CheckpointError(f"{source.weights}: holds no factors of {what}", hint=AGAIN)
    return dict(sorted(modules.items())), extras


def part_of(source: Checkpoint, module: str, keys: Parts, part: str) -> Tensor:
    """A part of a module: floats, all of them finite.

    Raises:
        CheckpointError: if it is missing, or holds anything else.
    """
    if part not in keys:
        there = next(iter(keys.values()))
        beginning = there[: -len(next(name for name, key in keys.items() if key == there))]
        raise CheckpointError(
            f"{source.weights}: module {module} has {there} but no {beginning.rpartition('.')[2]}{part}", hint=AGAIN
        )
    tensor = source.tensors[keys[part]]
    if tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{source.weights}: tensor {keys[part]} is {kind}, expected float32, float16, bfloat16 or float64",
            hint=AGAIN,
        )
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"{source.weights}: tensor {keys[part]} holds NaN or infinity",
            hint="the training diverged; use an earlier save",
        )
    return tensor


def refuse_shapes(source: Checkpoint, module: str, parts: Mapping[str, Tensor], expected: str) -> CheckpointError:
    """The error about a module's tensors that do not fit together."""
    found = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items())
    return CheckpointError(f"{source.weights}: module {module} has {found}, expected {expected}", hint=AGAIN)


def sureness(source: Checkpoint, kind: str, by_keys: float) -> float:
    """How sure one of PEFT's methods is of a checkpoint: its keys tell, and the configuration where there is one.

    Keys of one method beside the configuration of another are refused by PEFT's LoRA, by name.
    """
    return by_keys if source.config is None or source.config.get("peft_type") == kind else 0.0


def peft_config(source: Checkpoint, kind: str, what: str) -> Mapping[str, Any]:
    """The adapter_config.json of one of PEFT's methods.

    Raises:
        CheckpointError: if there is none, or it is another method's.
    """
    raw = source.config
    if raw is None or raw.get("peft_type") != kind:
        found = "there is no adapter_config.json" if raw is None else f"its peft_type is {shown(raw.get('peft_type'))}"
        raise CheckpointError(
            f"{source.weights}: is {what}, but {found} beside it, so its scale is unknown",
            hint="put the adapter's own adapter_config.json beside it",
        )
    return raw


def number(source: Checkpoint, raw: Mapping[str, Any], field: str, default: float | None = None) -> float:
    """A finite number of a configuration.

    Raises:
        CheckpointError: if it is anything else.
    """
    value = raw.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or abs(value) > _LARGEST:
        raise CheckpointError(f"{source.path}: {field} is {shown(value)}, expected a finite number", hint=AGAIN)
    return float(value)


def count(source: Checkpoint, raw: Mapping[str, Any], field: str, default: int, least: int = 1) -> int:
    """A whole number of a configuration.

    Raises:
        CheckpointError: if it is anything else, or below `least`.
    """
    value = raw.get(field, default)
    if type(value) is not int or not least <= value < 2**31:
        raise CheckpointError(
            f"{source.path}: {field} is {shown(value)}, expected a whole number of at least {least}", hint=AGAIN
        )
    return value


def base_name(raw: Mapping[str, Any], field: str = "base_model_name_or_path") -> str | None:
    """What a configuration calls the base model, or None."""
    found = raw.get(field)
    return found if isinstance(found, str) else None
