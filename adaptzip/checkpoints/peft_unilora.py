"""PEFT's UniLoRA: every number of A and B is one of a single vector's, at places that a seed spreads over all modules.

arXiv:2506.00799. The file holds `base_model.unilora_theta_d` (d,), and of each module `<module>.unilora_indices_A`
(rank, in), `.unilora_indices_B` (out, rank), and `.unilora_scales_A` and `.unilora_scales_B` of the same shapes; A is
theta_d[indices_A] scales_A, and B likewise. By default PEFT leaves out places and scales, and draws them anew for all
modules in the base model's own order, which no file of safetensors has kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._config import DIFFERENT, whole
from adaptzip.checkpoints._parts import AGAIN, Parts, check_numbers, linear_layout, misfit, part_of
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import CheckpointError, RefusedError

_VECTOR = "base_model.unilora_theta_d"


class _PeftUnilora(PeftMethod):
    """The dialect `peft-unilora`. Factors are put together in float32, one product each."""

    name = "peft-unilora"
    title = "PEFT's UniLoRA"
    judged_by = "PEFT"
    lacks = "files without their places"
    signature = (
        Signature(r"^base_model\.(model\..*\.unilora_(indices|scales)_[AB]|unilora_theta_d)$", "PEFT's UniLoRA"),
    )
    kind = "UNILORA"
    own = ".unilora_"
    parts = "(?:indices|scales)_[AB]"
    shared = r"base_model\.unilora_theta_d"

    def read(self, source: Checkpoint) -> Adapter:
        """Refused where the places are not in the file: only the base model, in memory, has the order they follow."""
        if not any(self.own in key for key in source.tensors if key != _VECTOR):
            raise RefusedError(
                f"{source.weights}: has no unilora_indices, which PEFT draws anew in the order of the base model's "
                "modules",
                hint="save it again with save_indices=True, or turn it into a LoRA: peft.save_as_lora",
            )
        return super().read(source)

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        rank, vector = whole("r", raw.get("r", 4), source.path), _vector(source, raw)
        found = {}
        for name, keys in modules.items():
            A, B = (_matrix(source, name, keys, side, vector) for side in "AB")
            if not A.shape[0] == B.shape[1] == rank:
                raise misfit(source, name, {"A": A, "B": B}, f"A ({rank}, in) and B (out, {rank})")
            found[name] = LoraFactors(A, B, layout=linear_layout(raw))
        return found


def _vector(source: Checkpoint, raw: Mapping[str, Any]) -> Tensor:
    if _VECTOR not in source.tensors:
        raise CheckpointError(f"{source.weights}: has no {_VECTOR}", hint=AGAIN)
    check_numbers(source, _VECTOR)
    vector: Tensor = source.tensors[_VECTOR]
    length = whole("theta_d_length", raw.get("theta_d_length", 256), source.path)
    if tuple(vector.shape) != (length,):
        raise CheckpointError(
            f"{source.weights}: {_VECTOR} is {list(vector.shape)}, but adapter_config.json says {length}",
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


DIALECT = _PeftUnilora()
