"""What the files of many dialects have in common: the tensors of a module by part, and fields of a configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import BaseTensors, Checkpoint
from adaptzip.checkpoints._config import LARGEST, shown
from adaptzip.core.finite import all_finite
from adaptzip.core.layouts import Layout
from adaptzip.errors import CheckpointError, RefusedError

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
AGAIN = "save the adapter again with the program that trained it"

Parts = Mapping[str, str]
"""The keys of one module's tensors, by part."""

_EMBEDDING = re.compile(r"(^|[._])(embeddings?|embed|embed_tokens|embed_positions|embed_in|wte|wpe|shared)$")
"""How the names of embeddings end, where neither keys nor shapes tell them from linear layers."""


def part_of(source: Checkpoint, module: str, keys: Parts, part: str) -> Tensor:
    """A part of a module: floats, all of them finite.

    Raises:
        CheckpointError: if it is missing, or holds anything else.
    """
    if part not in keys:
        other, there = next(iter(keys.items()))
        missing = there.removesuffix(other).rpartition(".")[2] + part
        raise CheckpointError(f"{source.weights}: module {module} has {there} but no {missing}", hint=AGAIN)
    check_numbers(source, keys[part])
    return source.tensors[keys[part]]


def check_numbers(source: Checkpoint, key: str) -> None:
    """Refuse a tensor of anything but finite floats.

    Raises:
        CheckpointError: by the tensor's key.
    """
    tensor: Tensor = source.tensors[key]
    if tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{source.weights}: tensor {key} is {kind}, expected float32, float16, bfloat16 or float64",
            hint="save the adapter in one of these",
        )
    if not all_finite(tensor):
        raise CheckpointError(
            f"{source.weights}: tensor {key} holds NaN or infinity",
            hint="the training diverged; use an earlier save",
        )


def misfit(source: Checkpoint, module: str, parts: Mapping[str, Tensor], expected: str) -> CheckpointError:
    """The error about a module's tensors that do not fit together."""
    found = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items())
    return CheckpointError(f"{source.weights}: module {module} has {found}, expected {expected}", hint=AGAIN)


def number(source: Checkpoint, raw: Mapping[str, Any], field: str, default: float | None = None) -> float:
    """A finite number of a configuration.

    Raises:
        CheckpointError: if it is anything else.
    """
    value = raw.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or abs(value) > LARGEST:
        raise CheckpointError(f"{source.path}: {field} is {shown(value)}, expected a finite number", hint=AGAIN)
    return float(value)


def needed_base(source: Checkpoint, why: str) -> BaseTensors:
    """The base model's tensors, for a file that means nothing without them.

    Args:
        why: what cannot be told without them, after "its base model is needed".

    Raises:
        RefusedError: if they were not given.
    """
    if source.base is None:
        raise RefusedError(f"{source.weights}: its base model is needed {why}", hint="add `base=DIR`")
    return source.base


def linear_layout(raw: Mapping[str, Any]) -> Layout:
    """How the weights of linear layers lie, by a configuration's fan_in_fan_out."""
    return "transposed" if raw.get("fan_in_fan_out") else "linear"


def is_embedding(module: str) -> bool:
    """Whether a module's name is one that models of the transformers library give an embedding."""
    return _EMBEDDING.search(module) is not None


def base_name(raw: Mapping[str, Any], field: str = "base_model_name_or_path") -> str | None:
    """What a configuration calls the base model, or None."""
    found = raw.get(field)
    return found if isinstance(found, str) else None
