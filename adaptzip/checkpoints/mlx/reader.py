"""Reading an MLX file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._base_name import KEY as BASE
from adaptzip.checkpoints._config import DIFFERENT, shown
from adaptzip.checkpoints._parts import AGAIN, Parts, base_name, is_embedding, misfit, number, part_of
from adaptzip.checkpoints.mlx.names import from_mlx
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, RefusedError

MODEL = "model"
"""Where the configuration has the base model's name."""
_KEY = re.compile(r"(.+)\.(lora_a|lora_b|m)")


def read(source: Checkpoint) -> Adapter:
    """The adapter in an MLX file; the factors are turned, in the dtype that they have.

    Raises:
        CheckpointError: if it is malformed, or a key has no meaning.
        RefusedError: if it holds whole weights or updates of experts.
    """
    raw = _config(source)
    scale, dora = _scale(source, raw), _is_dora(source, raw)
    modules = _modules(source)
    factors = {name: _factors(source, name, keys, scale, dora) for name, keys in sorted(modules.items())}
    base = base_name(raw, MODEL)
    # The base has one name in a file, that which --base-name changes.
    config = {key: value for key, value in raw.items() if key != MODEL} | {BASE: base}
    meta = Meta("mlx", MappingProxyType(config), base, source.header, source.config_text)
    return Adapter(from_mlx(factors), {}, meta)


def _config(source: Checkpoint) -> Mapping[str, Any]:
    if source.config is None:
        raise CheckpointError(
            f"{source.weights}: is an MLX LoRA without adapter_config.json, so its scale is unknown",
            hint="put the adapter_config.json that mlx-lm wrote beside it",
        )
    return source.config


def _scale(source: Checkpoint, raw: Mapping[str, Any]) -> float:
    """What the update is multiplied by."""
    parameters = raw.get("lora_parameters")
    if not isinstance(parameters, Mapping):
        raise CheckpointError(
            f"{source.path}: lora_parameters is {shown(parameters)}, expected rank, scale and dropout", hint=AGAIN
        )
    return number(source, parameters, "scale")


def _is_dora(source: Checkpoint, raw: Mapping[str, Any]) -> bool:
    """Whether it is a DoRA; before mlx-lm had fine_tune_type it had use_dora, and before that LoRAs alone."""
    kind = raw.get("fine_tune_type", "dora" if raw.get("use_dora") else "lora")
    if kind not in ("lora", "dora"):
        raise RefusedError(
            f"{source.path}: fine_tune_type is {shown(kind)}, expected lora or dora",
            hint="a fully fine-tuned model has no low-rank update",
        )
    return bool(kind == "dora")


def _modules(source: Checkpoint) -> dict[str, dict[str, str]]:
    """The key of each part by module name."""
    modules: dict[str, dict[str, str]] = {}
    for key in source.tensors:
        found = _KEY.fullmatch(key)
        if found is None:
            raise CheckpointError(
                f"{source.weights}: the key {key} has no meaning in an MLX LoRA, and MLX would not load it",
                hint="expected <module>.lora_a, <module>.lora_b, and with DoRA <module>.m",
            )
        modules.setdefault(found[1], {})[found[2]] = key
    if not modules:
        raise CheckpointError(f"{source.weights}: holds no tensors", hint=AGAIN)
    return modules


def _factors(source: Checkpoint, name: str, keys: Parts, scale: float, dora: bool) -> LoraFactors:
    a, b = (part_of(source, name, keys, part) for part in ("lora_a", "lora_b"))
    if a.ndim == 3 and b.ndim == 3:
        raise RefusedError(
            f"{source.weights}: module {name} has lora_a {list(a.shape)}: updates of all experts in one layer",
            hint="fuse the adapter into its base with mlx_lm.fuse, or train it without the experts",
        )
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
        raise misfit(source, name, {"lora_a": a, "lora_b": b}, "lora_a (in, rank) and lora_b (rank, out)")
    layout: Layout = "embedding" if is_embedding(name) else "linear"
    magnitude = _magnitude(source, name, keys, b.shape[1], dora)
    if magnitude is not None and layout == "embedding":
        raise RefusedError(
            f"{source.weights}: module {name} is an embedding with DoRA, of which MLX scales each token's row",
            hint="train it without the embedding",
        )
    return LoraFactors(a.T.contiguous(), b.T.contiguous(), scale, layout, magnitude=magnitude)


def _magnitude(source: Checkpoint, name: str, keys: Parts, out: int, dora: bool) -> Tensor | None:
    """A module's DoRA magnitude (out,); present if and only if the configuration says so."""
    if ("m" in keys) != dora:
        there = f"has {keys['m']}" if "m" in keys else "has no m"
        raise CheckpointError(
            f"{source.weights}: module {name} {there}, but fine_tune_type is {'dora' if dora else 'lora'}",
            hint=DIFFERENT,
        )
    if not dora:
        return None
    found = part_of(source, name, keys, "m")
    if tuple(found.shape) != (out,):
        raise CheckpointError(f"{source.weights}: {keys['m']} is {list(found.shape)}, expected [{out}]", hint=AGAIN)
    return found
