"""PEFT's TinyLoRA: cores between frozen factors of the base weights, each a mixture of fixed random matrices.

arXiv:2602.04118. The file holds `<module>.tinylora_A` (rank, in), `.tinylora_B` (out, rank) and `.tinylora_P`
(u, rank, rank), and `base_model.tinylora_v.<group>` (u,), the vectors that were trained; the update is
B (sum_i v_i P_i) A. An embedding's A is (rank, dimension), and its B (vocabulary, rank).

The n modules in the base model's own order share g = max(1, round(n (1 - weight_tying))) vectors, n // g modules in a
row one each. No file of safetensors has kept that order, but P has: PEFT draws that of the i-th module, with variance
1 / rank, from the seed projection_seed + i.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._config import DIFFERENT, whole
from adaptzip.checkpoints._parts import (
    AGAIN,
    Parts,
    check_numbers,
    is_embedding,
    linear_layout,
    misfit,
    number,
    part_of,
)
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError, RefusedError

_VECTOR = "base_model.tinylora_v."
_COMPARED = 256
"""How many numbers of P are held against those drawn."""


class _PeftTinylora(PeftMethod):
    """The dialect `peft-tinylora`. One factor stays as it is; cores go into the other in float64, rounded once."""

    name = "peft-tinylora"
    title = "PEFT's TinyLoRA"
    judged_by = "PEFT"
    lacks = "files without their projections"
    signature = (Signature(r"^base_model\.(model\..*\.tinylora_[ABP]|tinylora_v\.\d+)$", "PEFT's TinyLoRA"),)
    kind = "TINYLORA"
    own = ".tinylora_"
    parts = "[ABP]"
    shared = r"base_model\.tinylora_v\.\d+"

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        """Refused where P is not in the file: only the base model, in memory, has the order that it is drawn in."""
        for name, keys in modules.items():
            if "P" not in keys:
                raise RefusedError(
                    f"{source.weights}: module {name} has no tinylora_P, which PEFT draws anew as the module's turn in "
                    "its base model comes",
                    hint="save it again with save_projection=True, or turn it into a LoRA: peft.save_as_lora",
                )
        parts = {name: _parts(source, name, keys) for name, keys in modules.items()}
        vectors = _vectors(source, raw, {name: P for name, (_, _, P) in parts.items()})
        return {name: _factors(name, *parts[name], vectors[name], raw) for name in modules}


def _parts(source: Checkpoint, name: str, keys: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and P of a module."""
    A, B, P = (part_of(source, name, keys, part) for part in "ABP")
    right = A.ndim == B.ndim == 2 and P.ndim == 3 and 0 not in (*A.shape, *B.shape, *P.shape)
    if not right or not A.shape[0] == B.shape[1] == P.shape[1] == P.shape[2]:
        raise misfit(
            source, name, {"A": A, "B": B, "P": P}, "A (rank, in), B (out, rank) and P (u, rank, rank), none empty"
        )
    return A, B, P


def _factors(name: str, A: Tensor, B: Tensor, P: Tensor, vector: Tensor, raw: Mapping[str, Any]) -> LoraFactors:
    core = torch.einsum("i,ijk->jk", vector.double(), P.double())
    if is_embedding(name):
        return LoraFactors((B.double() @ core).T.contiguous().float(), A.T.contiguous(), layout="embedding")
    return LoraFactors(A, (B.double() @ core).float(), layout=linear_layout(raw))


def _vectors(source: Checkpoint, raw: Mapping[str, Any], projections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vector of each module."""
    count = len(projections)
    tying = number(source, raw, "weight_tying", 0.0)
    if not 0 <= tying <= 1:
        raise CheckpointError(f"{source.path}: weight_tying is {tying:g}, expected 0 to 1", hint=AGAIN)
    groups = max(1, round(count * (1 - tying)))
    turns = _turns(source, raw, projections) if groups > 1 else dict.fromkeys(projections, 0)
    group = {name: min(turn // (count // groups), groups - 1) for name, turn in turns.items()}
    there = {key for key in source.tensors if key.startswith(_VECTOR)}
    expected = {f"{_VECTOR}{number}" for number in group.values()}
    for key in sorted(there ^ expected):
        found, wanted = ("is there", "is not") if key in there else ("is missing", "is")
        raise CheckpointError(
            f"{source.weights}: {key} {found}, but {wanted} among the {len(expected)} vectors of {count} modules with "
            f"weight_tying {tying:g}",
            hint=DIFFERENT,
        )
    for key in expected:
        check_numbers(source, key)
    return {name: _vector(source, f"{_VECTOR}{group[name]}", name, P) for name, P in projections.items()}


def _vector(source: Checkpoint, key: str, name: str, P: Tensor) -> Tensor:
    vector = source.tensors[key]
    if tuple(vector.shape) != (P.shape[0],):
        raise CheckpointError(
            f"{source.weights}: {key} is {list(vector.shape)}, expected [{P.shape[0]}], as module {name} has P "
            f"{list(P.shape)}",
            hint=AGAIN,
        )
    return vector


def _turns(source: Checkpoint, raw: Mapping[str, Any], projections: Mapping[str, Tensor]) -> dict[str, int]:
    """How many modules come before each in the base model, told by the seed that its P was drawn from."""
    seed, count = whole("projection_seed", raw.get("projection_seed", 42), source.path, 0), len(projections)
    drawn = {shape: _drawn(shape, seed, count) for shape in {P.shape for P in projections.values()}}
    turns: dict[str, int] = {}
    for name, P in projections.items():
        far = (drawn[P.shape] - P.flatten()[:_COMPARED].float()).abs().amax(dim=1) * sqrt(P.shape[1])
        # What a dtype rounds of numbers some standard deviations from 0, and what processors round differently.
        near = torch.nonzero(far < 8 * max(torch.finfo(P.dtype).eps, 1e-6)).flatten().tolist()
        if len(near) != 1 or near[0] in turns.values():
            raise RefusedError(
                f"{source.weights}: module {name} has a tinylora_P that was not drawn from projection_seed {seed} "
                f"for one of {count} modules, so which of the vectors is its own is unknown",
                hint="save it as a LoRA: peft.save_as_lora(path, model, rank=r)",
            )
        turns[name] = near[0]
    return turns


def _drawn(shape: torch.Size, seed: int, count: int) -> Tensor:
    """The first numbers of what PEFT draws for P of the first `count` modules, a row for each."""
    # The order in which torch fills a tensor depends on its size: each is drawn whole, as PEFT draws it.
    generators = (torch.Generator().manual_seed(seed + turn) for turn in range(count))
    spread = 1 / sqrt(shape[1])
    return torch.stack([torch.normal(0.0, spread, shape, generator=each).flatten()[:_COMPARED] for each in generators])


DIALECT = _PeftTinylora()
