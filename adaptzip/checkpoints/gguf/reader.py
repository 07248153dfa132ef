"""Reading llama.cpp's LoRA back to the modules of transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._base_name import KEY as BASE
from adaptzip.checkpoints._config import LARGEST
from adaptzip.checkpoints._gguf.architectures import (
    EMBEDDING,
    Architecture,
    heads,
    heads_of,
    module_name,
    of_base,
    of_file,
    unpermuted,
)
from adaptzip.checkpoints._parts import AGAIN, Parts, misfit, part_of
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, RefusedError

ARCHITECTURE = "general.architecture"
ALPHA = "adapter.lora.alpha"
BASE_NAME = "general.base_model.0.name"
_TYPES = {"general.type": "adapter", "adapter.type": "lora"}
_KEY = re.compile(r"(.+)\.(lora_a|lora_b)")


def read(source: Checkpoint) -> Adapter:
    """The adapter in a GGUF file; the factors are in the dtype that they have, float32 for 8 bits.

    Raises:
        CheckpointError: if it is malformed, or is for another base than the one that is given.
        RefusedError: if it is no LoRA, if a tensor is none of a linear layer or embedding, or if rows are turned by a
            number of heads that neither the file nor a base tells.
    """
    for key, wanted in _TYPES.items():
        if source.metadata.get(key) != wanted:
            raise RefusedError(
                f"{source.weights}: its {key} is {source.metadata.get(key)!r}, expected {wanted!r}",
                hint="give a LoRA in GGUF, as convert_lora_to_gguf.py makes it",
            )
    architecture = of_file(source.metadata.get(ARCHITECTURE, ""), source.weights)
    if source.base_config is not None and of_base(source.base_config).name != architecture.name:
        raise CheckpointError(
            f"{source.weights}: is for {architecture.name}, but the base is {source.base_config.get('model_type')}",
            hint="give the base that the adapter was trained on",
        )
    alpha, turns = _alpha(source), _heads(source, architecture)
    modules = {name: _factors(source, name, keys, alpha) for name, keys in _modules(source, architecture).items()}
    modules = {name: _turned(source, name, factors, architecture, turns) for name, factors in sorted(modules.items())}
    base = source.metadata.get(BASE_NAME)
    return Adapter(modules, {}, Meta("gguf", MappingProxyType({BASE: base} if base else {}), base or None))


def _alpha(source: Checkpoint) -> float:
    """What each module's rank divides, or 0 where the update has no scale."""
    told = source.metadata.get(ALPHA, "0")
    try:
        alpha = float(told)
    except ValueError:
        alpha = math.nan
    if not math.isfinite(alpha) or abs(alpha) > LARGEST:
        raise CheckpointError(f"{source.weights}: {ALPHA} is {told[:40]}, expected a finite number", hint=AGAIN)
    return alpha


def _heads(source: Checkpoint, architecture: Architecture) -> tuple[int, int] | None:
    """The heads of queries and of keys by which rows are turned: those of the base, or as the file tells; None where
    neither does."""
    if source.base_config is not None:
        return heads(source.base_config)
    told = [source.metadata.get(f"{architecture.name}.attention.head_count{of}", "") for of in ("", "_kv")]
    if not all(number.isdecimal() and len(number) < 10 and int(number) > 0 for number in told):
        return None
    return int(told[0]), int(told[1])


def _modules(source: Checkpoint, architecture: Architecture) -> dict[str, dict[str, str]]:
    """The key of each part by module name."""
    modules: dict[str, dict[str, str]] = {}
    for key in source.tensors:
        found = _KEY.fullmatch(key)
        if found is None:
            raise RefusedError(
                f"{source.weights}: the tensor {key} is no part of a low-rank update, and llama.cpp applies none other",
                hint="convert the adapter without it",
            )
        module = module_name(architecture, found[1])
        if module is None:
            raise RefusedError(
                f"{source.weights}: the tensor {found[1]} belongs to no one linear layer of transformers' models of "
                f"{architecture.name}",
                hint="give the PEFT adapter that it was made from",
            )
        modules.setdefault(module, {})[found[2]] = key
    if not modules:
        raise CheckpointError(f"{source.weights}: holds no tensors", hint=AGAIN)
    return modules


def _factors(source: Checkpoint, name: str, keys: Parts, alpha: float) -> LoraFactors:
    a, b = (part_of(source, name, keys, part) for part in ("lora_a", "lora_b"))
    embedding = keys["lora_a"].startswith(f"{EMBEDDING}.")
    if embedding and a.ndim == 2:
        a = a.T.contiguous()
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        expected = "lora_a (vocabulary, rank)" if embedding else "lora_a (rank, in)"
        found: Mapping[str, Tensor] = {part: source.tensors[key] for part, key in keys.items()}
        raise misfit(source, name, found, f"{expected} and lora_b (out, rank)")
    layout: Layout = "embedding" if embedding else "linear"
    return LoraFactors(a, b, alpha / a.shape[0] if alpha else 1.0, layout)


def _turned(
    source: Checkpoint, name: str, factors: LoraFactors, architecture: Architecture, turns: tuple[int, int] | None
) -> LoraFactors:
    """The factors as transformers' model has the rows and the weight."""
    if architecture.transposed and factors.layout == "linear":
        return LoraFactors(factors.A, factors.B, factors.scaling, "transposed")
    turned = architecture.permuted and heads_of(name, (1, 1)) is not None
    if not turned:
        return factors
    count = None if turns is None else heads_of(name, turns)
    if count is None:
        raise RefusedError(
            f"{source.weights}: the rows of {name} are turned by the number of heads, which the file does not tell",
            hint="give the base model's folder with `base=`",
        )
    if factors.B.shape[0] % (2 * count):
        raise CheckpointError(
            f"{source.weights}: module {name} has {factors.B.shape[0]} rows, which are not of {count} heads",
            hint="give the base that the adapter was trained on with `base=`",
        )
    return LoraFactors(factors.A, unpermuted(factors.B, count).contiguous(), factors.scaling)
