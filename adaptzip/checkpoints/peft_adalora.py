"""PEFT's AdaLoRA: singular values E between A and B, cut to the ranks that training kept.

Zhang et al. 2023, arXiv:2303.10512. The file holds `<module>.lora_A` (rank, in), `.lora_E` (rank, 1) and `.lora_B`
(out, rank), and the update is lora_alpha / (init_r + 1e-5) * B diag(E) A: PEFT divides by the rank that training began
with, however few are left. `r` of the configuration means nothing, and `rank_pattern` tells what was cut already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from adaptzip.checkpoints._base import Checkpoint, Files, Reader, Signature
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES, shown
from adaptzip.checkpoints._effects import with_plain_keys
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._parts import (
    AGAIN,
    DIFFERENT,
    Parts,
    base_name,
    count,
    number,
    part_of,
    peft_config,
    peft_parts,
    refuse_shapes,
    sureness,
)
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError

_KEY = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AEB])")
_NO_RANK = 1e-5
"""What PEFT adds to the rank that it divides by, so that it is never 0."""


class _PeftAdalora(Reader):
    """The dialect `peft-adalora`."""

    name = "peft-adalora"
    title = "PEFT's AdaLoRA"
    files = Files(WEIGHT_NAMES, CONFIG_NAME)
    signature = (Signature(r"^base_model\.model\..*\.lora_E$", "PEFT's AdaLoRA"),)

    def sniff(self, source: Checkpoint) -> float:
        return sureness(source, "ADALORA", super().sniff(source))

    def read(self, source: Checkpoint) -> Adapter:
        """A stays as it is; E is folded into B in float64, rounded once to float32."""
        raw = peft_config(source, "ADALORA", self.title)
        scaling = number(source, raw, "lora_alpha", 8) / (_start(source, raw) + _NO_RANK)
        layout: Layout = "transposed" if raw.get("fan_in_fan_out") else "linear"
        modules, extras = peft_parts(source, _KEY, ".lora_", self.title)
        factors = {}
        for name, keys in modules.items():
            factors[name] = _factors(source, name, keys, _kept(source, raw, name), scaling, layout)
        meta = Meta(self.name, MappingProxyType(dict(raw)), base_name(raw))
        return Adapter(factors, with_plain_keys(extras), meta)


def _start(source: Checkpoint, raw: Mapping[str, Any]) -> int:
    """The rank that training began with."""
    return count(source, raw, "init_r", 12)


def _kept(source: Checkpoint, raw: Mapping[str, Any], name: str) -> int:
    """How many ranks the configuration leaves a module."""
    pattern = raw.get("rank_pattern") or {}
    if not isinstance(pattern, Mapping):
        raise CheckpointError(f"{source.path}: rank_pattern is {shown(pattern)}, expected a table", hint=AGAIN)
    mask = pattern.get(f"{name}.lora_E")
    if mask is None:
        return _start(source, raw)
    if not isinstance(mask, list) or not all(isinstance(kept, bool) for kept in mask):
        raise CheckpointError(
            f"{source.path}: rank_pattern of {name} is {shown(mask)}, expected a list of true and false", hint=AGAIN
        )
    return sum(mask)


def _factors(source: Checkpoint, name: str, keys: Parts, rank: int, scaling: float, layout: Layout) -> LoraFactors:
    A, E, B = (part_of(source, name, keys, part) for part in ("A", "E", "B"))
    fits = A.ndim == B.ndim == 2 and tuple(E.shape) == (A.shape[0], 1) and A.shape[0] == B.shape[1]
    if not fits or not A.shape[1] or not B.shape[0]:
        raise refuse_shapes(source, name, {"A": A, "E": E, "B": B}, "A (rank, in), E (rank, 1) and B (out, rank)")
    if A.shape[0] != rank:
        raise CheckpointError(
            f"{source.weights}: module {name} has rank {A.shape[0]}, but adapter_config.json leaves it {rank}",
            hint=DIFFERENT,
        )
    return LoraFactors(A, (B.double() * E.double().T).float(), scaling, layout)


DIALECT = _PeftAdalora()
