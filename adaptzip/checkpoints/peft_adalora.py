"""PEFT's AdaLoRA: singular values E between A and B, cut to the ranks that training kept.

Zhang et al. 2023, arXiv:2303.10512. The file holds `<module>.lora_A` (rank, in), `.lora_E` (rank, 1) and `.lora_B`
(out, rank), and the update is lora_alpha / (init_r + 1e-5) * B diag(E) A: PEFT divides by the rank that training began
with, however few are left, and takes the ranks that are left for a lora_alpha that is not positive. `r` of the
configuration means nothing, and `rank_pattern` tells what was cut already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptzip.checkpoints._adaptive import scale_of
from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._config import DIFFERENT, shown, whole
from adaptzip.checkpoints._parts import AGAIN, Parts, linear_layout, misfit, number, part_of
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.errors import CheckpointError


class _PeftAdalora(PeftMethod):
    """The dialect `peft-adalora`. A stays as it is; E is folded into B in float64, rounded once to float32."""

    name = "peft-adalora"
    title = "PEFT's AdaLoRA"
    judged_by = "PEFT"
    signature = (Signature(r"^base_model\.model\..*\.lora_E$", "PEFT's AdaLoRA"),)
    kind = "ADALORA"
    own = ".lora_"
    parts = "[AEB]"

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        start, masks = whole("init_r", raw.get("init_r", 12), source.path), _masks(source, raw)
        alpha, layout = number(source, raw, "lora_alpha", 8), linear_layout(raw)
        ranks = {name: _kept(source, name, masks.get(f"{name}.lora_E"), start) for name in modules}
        scales = {name: scale_of(alpha, rank, start) for name, rank in ranks.items()}
        return {name: _factors(source, name, keys, ranks[name], scales[name], layout) for name, keys in modules.items()}


def _masks(source: Checkpoint, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Which ranks are left, by the key of E without PEFT's prefix."""
    found = raw.get("rank_pattern") or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{source.path}: rank_pattern is {shown(found)}, expected a table", hint=AGAIN)
    return found


def _kept(source: Checkpoint, name: str, mask: object, start: int) -> int:
    """How many of the ranks that training began with are left."""
    if mask is None:
        return start
    if not isinstance(mask, list) or not all(isinstance(kept, bool) for kept in mask):
        raise CheckpointError(
            f"{source.path}: rank_pattern of {name} is {shown(mask)}, expected a list of true and false", hint=AGAIN
        )
    return sum(mask)


def _factors(source: Checkpoint, name: str, keys: Parts, rank: int, scaling: float, layout: Layout) -> LoraFactors:
    A, E, B = (part_of(source, name, keys, part) for part in ("A", "E", "B"))
    fits = A.ndim == B.ndim == 2 and tuple(E.shape) == (A.shape[0], 1) and A.shape[0] == B.shape[1]
    if not fits or not A.shape[1] or not B.shape[0]:
        raise misfit(source, name, {"A": A, "E": E, "B": B}, "A (rank, in), E (rank, 1) and B (out, rank)")
    if A.shape[0] != rank:
        raise CheckpointError(
            f"{source.weights}: module {name} has rank {A.shape[0]}, but adapter_config.json leaves it {rank}",
            hint=DIFFERENT,
        )
    return LoraFactors(A, (B.double() * E.double().T).float(), scaling, layout)


DIALECT = _PeftAdalora()
