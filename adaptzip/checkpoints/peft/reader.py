"""Reading a PEFT LoRA into an Adapter."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._config import DIFFERENT, PeftConfig, anchored, parse_config
from adaptzip.checkpoints._effects import with_plain_keys
from adaptzip.checkpoints._keys import TOKENS
from adaptzip.checkpoints._parts import check_numbers
from adaptzip.checkpoints._vetting import check_token_rows
from adaptzip.checkpoints.peft.alphas import has_alphas, without_alphas
from adaptzip.checkpoints.peft.experts import parameter_paths
from adaptzip.checkpoints.peft.keys import Keys, Part, classify
from adaptzip.checkpoints.peft.refusals import refuse_variants
from adaptzip.checkpoints.peft.stacks import Stack, are_listed, in_new_layout, stack_of, stack_of_three_dims
from adaptzip.checkpoints.peft.targeting import warn_of_strangers
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, RefusedError

_AGAIN = "save the adapter again with PEFT's save_pretrained"


def read(source: Checkpoint) -> Adapter:
    """Read a PEFT LoRA completely: every key becomes part of a module or an extra, or is refused.

    Raises:
        CheckpointError: if the checkpoint is malformed or its scale is unknown.
        RefusedError: if it is valid but not a low-rank update.
    """
    if source.config is not None:
        refuse_variants(source.config, source.path)
    source, alphas = without_alphas(source) if has_alphas(source) else (source, {})
    keys = classify(source.tensors, source.weights)
    if not keys.modules:
        what = "no LoRA factors" if source.tensors else "no tensors"
        raise CheckpointError(f"{source.weights}: holds {what}", hint="expected lora_A and lora_B keys")
    raw = source.config if source.config is not None else _assumed_config(source, keys, alphas)
    config = parse_config(raw, source.path)
    modules, told = _modules(source, keys, config)
    warn_of_strangers(modules, {**raw, **told}, source.path)
    extras = {key: source.tensors[key] for key in keys.extras}
    check_token_rows(extras, raw, source.weights)
    meta = Meta(
        dialect="peft",
        config=MappingProxyType({**raw, **told}),
        base_model=raw.get("base_model_name_or_path"),
        header=None if told else source.header,
        config_text=None if told else source.config_text,
    )
    return Adapter(dict(sorted(modules.items())), with_plain_keys(extras), meta)


def _assumed_config(source: Checkpoint, keys: Keys, alphas: Mapping[str, float]) -> Mapping[str, Any]:
    """A configuration for weights that come alone, from their shapes, and their alphas or the one of the user."""
    alpha = max(alphas.values(), default=source.alpha)
    if alpha is None:
        raise CheckpointError(
            f"{source.weights}: there is no adapter_config.json beside it, so its scale is unknown",
            hint="put the adapter's adapter_config.json beside it, or give its lora_alpha with `alpha=`",
        )
    for key in keys.extras:
        if key.endswith(TOKENS):
            raise CheckpointError(
                f"{source.weights}: {key} needs the token numbers of its adapter_config.json",
                hint="put the adapter's adapter_config.json beside it, without `alpha=`",
            )
    ranks = {}
    for name, parts in keys.modules.items():
        a = source.tensors.get(parts.get("A", parts.get("embedding_A", "")))
        b = source.tensors.get(parts.get("B", ""))
        if a is not None and a.ndim:
            ranks[name] = a.shape[1] if b is not None and are_listed(a, b) else a.shape[0]
    most = max(ranks.values(), default=1)
    return {
        "alpha_pattern": {anchored(name): own for name, own in alphas.items() if own != alpha},
        "base_model_name_or_path": None,
        "bias": "none",
        "lora_alpha": alpha,
        "lora_bias": any("bias" in parts for parts in keys.modules.values()),
        "peft_type": "LORA",
        "r": most,
        "rank_pattern": {anchored(name): rank for name, rank in ranks.items() if rank != most},
        "target_modules": sorted(keys.modules),
        "use_dora": any("magnitude" in parts for parts in keys.modules.values()),
    }


def _modules(source: Checkpoint, keys: Keys, config: PeftConfig) -> tuple[dict[str, LoraFactors], dict[str, Any]]:
    """All modules, and the fields of the configuration that differ for the factors as they were read."""
    paths = parameter_paths(keys.modules, config.raw, source.weights)
    modules: dict[str, LoraFactors] = {}
    stacks: dict[str, Stack] = {}
    listed: set[str] = set()
    for name, parts in keys.modules.items():
        for key in parts.values():
            check_numbers(source, key)
        path = paths.get(name, name)
        if name in paths and set(parts) != {"A", "B"}:
            raise CheckpointError(
                f"{source.weights}: parameter {path} has {', '.join(sorted(parts))}, expected A and B", hint=_AGAIN
            )
        a, b = (source.tensors[parts[part]] for part in _pair(source, name, parts))
        stack = stack_of_three_dims(path, a, b, config, source.weights)
        if stack is not None:
            stacks[path] = stack
            listed.add(path)
        elif name in paths:
            stacks[path] = stack_of(path, a, b, config, source.weights)
        else:
            modules[name] = _factors(source, name, parts, config)
    stacks, told = in_new_layout(stacks, listed, modules, config.raw, source)
    for path, stack in stacks.items():
        modules |= stack.factors(path)
    return modules, told


def _factors(source: Checkpoint, name: str, parts: Mapping[Part, str], config: PeftConfig) -> LoraFactors:
    a_part, b_part = _pair(source, name, parts)
    a, b = source.tensors[parts[a_part]], source.tensors[parts[b_part]]
    layout: Layout = "transposed" if config.fan_in_fan_out else "linear"
    kernel: tuple[int, ...] = ()
    if a_part == "embedding_A":
        layout = "embedding"
    elif a.ndim > 2:
        layout, kernel = "conv", tuple(a.shape[2:])
        a, b = _flat_convolution(source, name, a, b)
    _check_shapes(source, name, a, b, config.rank(name))
    return LoraFactors(
        a,
        b,
        config.scaling(name),
        layout,
        kernel,
        magnitude=_vector(source, name, "magnitude", parts, config.raw.get("use_dora"), b.shape[0]),
        bias=_vector(source, name, "bias", parts, config.raw.get("lora_bias"), b.shape[0]),
    )


def _pair(source: Checkpoint, name: str, parts: Mapping[Part, str]) -> tuple[Part, Part]:
    pair: tuple[Part, Part] = ("A", "B")
    if "embedding_A" in parts or "embedding_B" in parts:
        pair = ("embedding_A", "embedding_B")
    for part in pair:
        if part not in parts:
            there = next(iter(parts.values()))
            raise CheckpointError(
                f"{source.weights}: module {name} has {there} but no lora_{part}",
                hint=_AGAIN,
            )
    return pair


def _flat_convolution(source: Checkpoint, name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if b.ndim != a.ndim or any(k != 1 for k in b.shape[2:]):
        raise CheckpointError(
            f"{source.weights}: module {name} has A {list(a.shape)} and B {list(b.shape)}, "
            "expected a convolution's A (rank, in, *kernel) and B (out, rank, 1, ...), "
            "or experts' A (experts, rank, in) and B (experts, out, rank)",
            hint=_AGAIN,
        )
    if b.shape[1] and a.shape[0] != b.shape[1] and a.shape[0] % b.shape[1] == 0:
        raise RefusedError(
            f"{source.weights}: module {name} is a convolution in {a.shape[0] // b.shape[1]} groups, "
            "whose update PEFT cannot merge either",
            hint="train the adapter without grouped convolutions among its target_modules",
        )
    return a.flatten(1), b.flatten(1)


def _vector(
    source: Checkpoint, name: str, part: Part, parts: Mapping[Part, str], wanted: object, out: int
) -> Tensor | None:
    """A module's DoRA magnitude or LoRA bias as (out,); present if and only if the configuration says so."""
    field = "use_dora" if part == "magnitude" else "lora_bias"
    if part not in parts:
        if wanted:
            raise CheckpointError(f"{source.weights}: module {name} has no {part}, but {field} is set", hint=DIFFERENT)
        return None
    vector = source.tensors[parts[part]]
    if not wanted:
        raise CheckpointError(f"{source.weights}: {parts[part]} is there, but {field} is not set", hint=DIFFERENT)
    if vector.numel() != out:
        raise CheckpointError(
            f"{source.weights}: {parts[part]} has {vector.numel()} numbers, expected {out} as B has rows", hint=_AGAIN
        )
    return vector.reshape(-1)


def _check_shapes(source: Checkpoint, name: str, a: Tensor, b: Tensor, rank: int) -> None:
    empty = 0 in a.shape or 0 in b.shape
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or empty:
        gather = "a distributed training run may have saved only its shards; gather them and save again"
        raise CheckpointError(
            f"{source.weights}: module {name} has A {list(a.shape)} and B {list(b.shape)}, "
            "expected A (rank, in) and B (out, rank)",
            hint=gather if empty or 1 in (a.ndim, b.ndim) else _AGAIN,
        )
    if a.shape[0] != rank:
        raise CheckpointError(
            f"{source.weights}: module {name} has rank {a.shape[0]}, but adapter_config.json says {rank}",
            hint=DIFFERENT,
        )
