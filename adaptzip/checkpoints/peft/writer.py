"""What PEFT loads an Adapter from with the same update."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import torch

from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._effects import loaded_key, with_plain_keys
from adaptzip.checkpoints._rescaling import in_own_dtype, in_range
from adaptzip.checkpoints._safetensors import Contents
from adaptzip.checkpoints._targets import Targets
from adaptzip.checkpoints.peft.describe import config_text, describes, portable_config
from adaptzip.checkpoints.peft.experts import group_experts, stack_a, stack_b, wrapper_names
from adaptzip.checkpoints.peft.keys import PREFIX, SUFFIXES, Part, check_extra
from adaptzip.checkpoints.peft.prepare import loadable, portable
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError
from adaptzip.files.tensors import Pending, build_header, fits, header_keys, pending

_BASE_LAYER = ".base_layer."
_TOKENS = ".token_adapter"


def contents(adapter: Adapter, options: WriteOptions) -> Contents:
    """What adapter_model.safetensors and adapter_config.json hold.

    The files are the source's own, byte for byte, where the adapter still has its header, its configuration's
    text, and factors that fit both, and PEFT loads all of it.

    Raises:
        RefusedError: if PEFT, or the portable profile, cannot hold the adapter.
        CheckpointError: if an extra has a key without meaning.
    """
    _refuse_mixtures(adapter)
    _refuse_names(adapter)
    if not options.portable:
        _refuse_saved_whole(adapter)
    dtype = options.dtype
    if options.portable:
        adapter = portable(adapter)
        text = json.dumps(portable_config(adapter), indent=2, sort_keys=True)
        dtype = dtype or torch.float32
    else:
        adapter = adapter if describes(adapter) else loadable(adapter)
        text = config_text(adapter)
        if dtype is None and adapter.meta.dtype is not None:
            adapter = in_own_dtype(adapter, adapter.meta.dtype)
    adapter = _by_loaded_keys(adapter, json.loads(text))
    tensors = file_tensors(adapter, dtype)
    header = adapter.meta.header
    if header is None or not fits(tensors, header):
        header = build_header(tensors, {"format": "pt"})
    return Contents(tensors, header, text)


def file_tensors(adapter: Adapter, dtype: torch.dtype | None) -> dict[str, Pending]:
    """What adapter_model.safetensors holds, by key.

    Raises:
        RefusedError: if a factor is too large for `dtype`, or two tensors would have one key.
        CheckpointError: if an extra has a key without meaning.
    """
    known = header_keys(adapter.meta.header)
    modules = {name: in_range(name, factors, dtype) for name, factors in adapter.modules.items()}
    tensors: dict[str, Pending] = {}
    groups = group_experts(modules)
    names = wrapper_names(groups)
    for path, experts in groups.items():
        _put(tensors, _expert_tensors(names[path], experts, dtype), f"the experts of {path}")
    for name, factors in modules.items():
        if not factors.layout.startswith("expert"):
            _put(tensors, _module_tensors(name, factors, dtype, known), f"module {name}")
    for key, tensor in adapter.extras.items():
        check_extra(key, "the adapter")
        _put(tensors, {loaded_key(key, modules): pending(tensor)}, f"the extra {key}")
    return tensors


def _put(tensors: dict[str, Pending], more: Mapping[str, Pending], what: str) -> None:
    twice = sorted(tensors.keys() & more.keys())
    if twice:
        raise RefusedError(
            f"{what} would have the key {twice[0]}, which another tensor of the adapter has",
            hint="merge the adapter into its base model instead",
        )
    tensors.update(more)


def _by_loaded_keys(adapter: Adapter, config: Mapping[str, Any]) -> Adapter:
    """With the extras by the keys that PEFT loads them from, and does not drop without a word.

    A tensor of a base layer has its plain key where the configuration leaves its module as it is: it comes from an
    adapter with other modules. So has a trained copy that goes by its name in memory.
    """
    extras = with_plain_keys(adapter.extras)
    if not config.get("target_modules"):
        return replace(adapter, extras=extras)
    found, targets = {}, Targets(config)
    for key, tensor in extras.items():
        module, _, leaf = key.removeprefix(PREFIX).rpartition(_BASE_LAYER)
        left = module and module not in adapter.modules and not module.endswith(_TOKENS) and not targets.load(module)
        plain = f"{PREFIX}{module}.{leaf}"
        found[plain if left and plain not in extras else key] = tensor
    return replace(adapter, extras=found)


def _key(name: str, part: Part, known: Collection[str]) -> str:
    """The key of a part: the form that the source file used, else the usual one."""
    keys = [PREFIX + name + suffix for suffix in SUFFIXES[part]]
    return next((key for key in keys if key in known), keys[0])


def _module_tensors(
    name: str, factors: LoraFactors, dtype: torch.dtype | None, known: Collection[str]
) -> dict[str, Pending]:
    a, b, kernel = factors.A, factors.B, factors.kernel
    if factors.layout == "embedding":
        tensors = {
            _key(name, "embedding_A", known): pending(a, dtype),
            _key(name, "embedding_B", known): pending(b, dtype),
        }
    else:
        if kernel:
            a, b = a.reshape(a.shape[0], -1, *kernel), b.reshape(*b.shape, *(1 for _ in kernel))
        tensors = {_key(name, "A", known): pending(a, dtype), _key(name, "B", known): pending(b, dtype)}
    if factors.bias is not None:
        tensors[_key(name, "bias", known)] = pending(factors.bias, dtype)
    if factors.magnitude is not None:
        shape = (1, -1, *(1 for _ in kernel)) if kernel else (-1,)
        tensors[_key(name, "magnitude", known)] = pending(factors.magnitude.reshape(shape), dtype)
    return tensors


def _expert_tensors(name: str, experts: list[LoraFactors], dtype: torch.dtype | None) -> dict[str, Pending]:
    rows, (out, inner) = len(experts) * experts[0].rank, experts[0].shape
    a_type = reduce(torch.promote_types, (factors.A.dtype for factors in experts))
    b_type = reduce(torch.promote_types, (factors.B.dtype for factors in experts))
    return {
        _key(name, "A", ()): Pending((rows, inner), dtype or a_type, partial(stack_a, experts)),
        _key(name, "B", ()): Pending((out, rows), dtype or b_type, partial(stack_b, experts)),
    }


def _refuse_names(adapter: Adapter) -> None:
    for name in adapter.modules:
        if not name or f".{name}".endswith(".base_layer"):
            raise RefusedError(
                f"the module {name!r} has a name that PEFT gives a layer inside another",
                hint="merge the adapter into its base model instead",
            )


def _refuse_saved_whole(adapter: Adapter) -> None:
    targets = Targets(adapter.meta.config)
    for name in adapter.modules:
        saved = targets.saved_whole(name)
        if saved is not None:
            raise RefusedError(
                f"module {name} lies in {saved}, which modules_to_save names, so that PEFT would leave its update out",
                hint="merge the adapter into its base model instead",
            )


def _refuse_mixtures(adapter: Adapter) -> None:
    """PEFT has one switch for DoRA and one for LoRA biases, for all modules together."""
    modules = adapter.modules.values()
    for what, count in (
        ("a DoRA magnitude", sum(factors.magnitude is not None for factors in modules)),
        ("a LoRA bias", sum(factors.bias is not None for factors in modules)),
    ):
        if 0 < count < len(modules):
            raise RefusedError(
                f"only {count} of {len(modules)} modules have {what}; PEFT wants all or none",
                hint="merge the adapter into its base model instead",
            )
    if not adapter.modules:
        raise RefusedError("the adapter has no modules, so there is nothing that PEFT could load")
