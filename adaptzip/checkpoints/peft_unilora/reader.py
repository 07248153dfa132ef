"""Reading a UniLoRA of PEFT: the vector, and its places in A and B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._config import DIFFERENT, whole
from adaptzip.checkpoints._parts import AGAIN, Parts, check_numbers, linear_layout, misfit, part_of
from adaptzip.checkpoints._peft_method import Modules
from adaptzip.checkpoints.peft_unilora.layout import VECTOR
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError


def factors_of(source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
    """The factors of each module, put together in float32, one product for each number.

    Raises:
        CheckpointError: if the tensors fit neither each other nor the configuration.
    """
    rank, vector = whole("r", raw.get("r", 4), source.path), _vector(source, raw)
    found = {}
    for name, keys in modules.items():
        A, B = (_matrix(source, name, keys, side, vector) for side in "AB")
        if not A.shape[0] == B.shape[1] == rank:
            raise misfit(source, name, {"A": A, "B": B}, f"A ({rank}, in) and B (out, {rank})")
        found[name] = LoraFactors(A, B, layout=linear_layout(raw))
    return found


def _vector(source: Checkpoint, raw: Mapping[str, Any]) -> Tensor:
    if VECTOR not in source.tensors:
        raise CheckpointError(f"{source.weights}: has no {VECTOR}", hint=AGAIN)
    check_numbers(source, VECTOR)
    vector: Tensor = source.tensors[VECTOR]
    length = whole("theta_d_length", raw.get("theta_d_length", 256), source.path)
    if tuple(vector.shape) != (length,):
        raise CheckpointError(
            f"{source.weights}: {VECTOR} is {list(vector.shape)}, but adapter_config.json says {length}",
            hint=DIFFERENT,
        )
    return vector


def _matrix(source: Checkpoint, name: str, keys: Parts, side: str, vector: Tensor) -> Tensor:
    """A or B of a module."""
    scales = part_of(source, name, keys, f"scales_{side}")
    index = _index(source, name, keys, f"indices_{side}", len(vector))
    if index.ndim != 2 or 0 in index.shape or index.shape != scales.shape:
        parts = {f"indices_{side}": index, f"scales_{side}": scales}
        raise misfit(source, name, parts, "two matrices of one shape, none empty")
    dtype = torch.promote_types(vector.dtype, torch.float32)
    return vector.to(dtype)[index] * scales.to(dtype)


def _index(source: Checkpoint, name: str, keys: Parts, part: str, length: int) -> Tensor:
    if part not in keys:
        raise CheckpointError(f"{source.weights}: module {name} has no unilora_{part}", hint=AGAIN)
    index: Tensor = source.tensors[keys[part]]
    if index.dtype not in (torch.int64, torch.int32):
        kind = str(index.dtype).removeprefix("torch.")
        raise CheckpointError(f"{source.weights}: tensor {keys[part]} is {kind}, expected int64 or int32", hint=AGAIN)
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < length:
        raise CheckpointError(
            f"{source.weights}: {keys[part]} has places from {int(index.min())} to {int(index.max())}, expected 0 to "
            f"{length - 1}",
            hint=DIFFERENT,
        )
    return index
