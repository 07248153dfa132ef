"""PEFT's AdaLoRA: singular values E between A and B, cut to the ranks that training kept.

Zhang et al. 2023, arXiv:2303.10512. The file holds `<module>.lora_A` (rank, in), `.lora_E` (rank, 1) and `.lora_B`
(out, rank), and the update is lora_alpha / (init_r + 1e-5) * B diag(E) A: PEFT divides by the rank that training began
with, however few are left. `r` of the configuration means nothing, and `rank_pattern` tells what was cut already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Files, Reader, Signature
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES, shown
from adaptzip.checkpoints._effects import with_plain_keys
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError

_KEY = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AEB])")
_PARTS = ("A", "E", "B")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_NO_RANK = 1e-5
"""What PEFT adds to the rank that it divides by, so that it is never 0."""
_AGAIN = "save the adapter again with PEFT's save_pretrained"
_DIFFERENT = "the weights and the configuration belong to different adapters"


class _PeftAdalora(Reader):
    """The dialect `peft-adalora`."""

    name = "peft-adalora"
    title = "PEFT's AdaLoRA"
    files = Files(WEIGHT_NAMES, CONFIG_NAME)
    signature = (Signature(r"^base_model\.model\..*\.lora_E$", "PEFT's AdaLoRA"),)

    def sniff(self, source: Checkpoint) -> float:
        """As sure as of its own keys, or of a configuration that names it: PEFT's LoRA knows that by its form alone."""
        named = source.config is not None and source.config.get("peft_type") == "ADALORA"
        return 0.97 if named else super().sniff(source)

    def read(self, source: Checkpoint) -> Adapter:
        """A stays as it is; E is folded into B in float64, rounded once to float32."""
        raw = _config(source)
        scaling = _alpha(source, raw) / (_start(source, raw) + _NO_RANK)
        layout: Layout = "transposed" if raw.get("fan_in_fan_out") else "linear"
        modules, extras = _classify(source)
        factors = {}
        for name, keys in sorted(modules.items()):
            A, E, B = (_part(source, keys, part, name) for part in _PARTS)
            _check_fit(source, name, (A, E, B), _kept(source, raw, name))
            factors[name] = LoraFactors(A, (B.double() * E.double().T).float(), scaling, layout)
        base = raw.get("base_model_name_or_path")
        meta = Meta(self.name, MappingProxyType(dict(raw)), base if isinstance(base, str) else None)
        return Adapter(factors, with_plain_keys(extras), meta)


def _config(source: Checkpoint) -> Mapping[str, Any]:
    raw = source.config
    if raw is None or raw.get("peft_type") != "ADALORA":
        found = "there is no adapter_config.json" if raw is None else f"its peft_type is {shown(raw.get('peft_type'))}"
        raise CheckpointError(
            f"{source.weights}: is PEFT's AdaLoRA, but {found} beside it, so its scale is unknown",
            hint="put the adapter's own adapter_config.json beside it",
        )
    return raw


def _alpha(source: Checkpoint, raw: Mapping[str, Any]) -> float:
    alpha = raw.get("lora_alpha", 8)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not isfinite(alpha):
        raise CheckpointError(f"{source.path}: lora_alpha is {shown(alpha)}, expected a finite number", hint=_AGAIN)
    return float(alpha)


def _start(source: Checkpoint, raw: Mapping[str, Any]) -> int:
    """The rank that training began with."""
    rank = raw.get("init_r", 12)
    if type(rank) is not int or not 0 < rank < 2**31:
        raise CheckpointError(
            f"{source.path}: init_r is {shown(rank)}, expected a whole number of at least 1", hint=_AGAIN
        )
    return rank


def _kept(source: Checkpoint, raw: Mapping[str, Any], name: str) -> int:
    """How many ranks the configuration leaves a module."""
    pattern = raw.get("rank_pattern") or {}
    if not isinstance(pattern, Mapping):
        raise CheckpointError(f"{source.path}: rank_pattern is {shown(pattern)}, expected a table", hint=_AGAIN)
    mask = pattern.get(f"{name}.lora_E")
    if mask is None:
        return _start(source, raw)
    if not isinstance(mask, list) or not all(isinstance(kept, bool) for kept in mask):
        raise CheckpointError(
            f"{source.path}: rank_pattern of {name} is {shown(mask)}, expected a list of true and false", hint=_AGAIN
        )
    return sum(mask)


def _classify(source: Checkpoint) -> tuple[dict[str, dict[str, str]], dict[str, Tensor]]:
    """The key of each part by module, and the extras."""
    modules: dict[str, dict[str, str]] = {}
    extras = {}
    for key, tensor in source.tensors.items():
        found = _KEY.fullmatch(key)
        if found is not None:
            modules.setdefault(found[1], {})[found[2]] = key
        elif not key.startswith(PREFIX) or ".lora_" in key:
            raise CheckpointError(
                f"{source.weights}: the key {key} has no meaning in an AdaLoRA",
                hint=f"expected {PREFIX}<module>.lora_A, .lora_E and .lora_B",
            )
        else:
            extras[key] = tensor
    if not modules:
        raise CheckpointError(f"{source.weights}: holds no AdaLoRA factors", hint=_AGAIN)
    return modules, extras


def _part(source: Checkpoint, keys: Mapping[str, str], part: str, name: str) -> Tensor:
    if part not in keys:
        there = next(iter(keys.values()))
        raise CheckpointError(f"{source.weights}: module {name} has {there} but no lora_{part}", hint=_AGAIN)
    tensor = source.tensors[keys[part]]
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{source.weights}: tensor {keys[part]} is {kind}, expected floats", hint=_AGAIN)
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"{source.weights}: tensor {keys[part]} holds NaN or infinity",
            hint="the training diverged; use an earlier save",
        )
    return tensor


def _check_fit(source: Checkpoint, name: str, parts: tuple[Tensor, Tensor, Tensor], rank: int) -> None:
    A, E, B = parts
    fits = A.ndim == B.ndim == 2 and tuple(E.shape) == (A.shape[0], 1) and A.shape[0] == B.shape[1]
    if not fits or not A.shape[1] or not B.shape[0]:
        raise CheckpointError(
            f"{source.weights}: module {name} has A {list(A.shape)}, E {list(E.shape)} and B {list(B.shape)}, "
            "expected A (rank, in), E (rank, 1) and B (out, rank)",
            hint=_AGAIN,
        )
    if A.shape[0] != rank:
        raise CheckpointError(
            f"{source.weights}: module {name} has rank {A.shape[0]}, but adapter_config.json leaves it {rank}",
            hint=_DIFFERENT,
        )


DIALECT = _PeftAdalora()
