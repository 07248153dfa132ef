"""Writing an Adapter as a folder that PEFT loads with the same update."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from adaptzip.adapter import Adapter, LoraFactors
from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._safetensors import Pending, build_header, fits, pending, write_tensors
from adaptzip.checkpoints.peft.describe import config_text, describes, portable_config
from adaptzip.checkpoints.peft.experts import group_experts, stack_a, stack_b, wrapper_names
from adaptzip.checkpoints.peft.keys import PREFIX, SUFFIXES, Part
from adaptzip.checkpoints.peft.prepare import loadable, portable
from adaptzip.errors import RefusedError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


def write(adapter: Adapter, folder: Path, options: WriteOptions) -> None:
    """Write adapter_config.json and adapter_model.safetensors into `folder`.

    The files are the source's own, byte for byte, where the adapter still has its header, its configuration's
    text, and factors that fit both.

    Raises:
        RefusedError: if PEFT cannot hold the adapter, or the portable profile would lose something.
    """
    _refuse_mixtures(adapter)
    if options.portable:
        adapter = portable(adapter, options.drop_extras)
        text = json.dumps(portable_config(adapter), indent=2, sort_keys=True)
        options = replace(options, dtype=options.dtype or torch.float32)
    else:
        adapter = adapter if describes(adapter) else loadable(adapter)
        text = config_text(adapter)
    tensors = file_tensors(adapter, options.dtype)
    header = adapter.meta.header
    if header is None or not fits(tensors, header):
        header = build_header(tensors, {"format": "pt"})
    with (folder / WEIGHTS_NAME).open("wb") as handle:
        write_tensors(handle, tensors, header)
    (folder / CONFIG_NAME).write_bytes(text.encode())


def file_tensors(adapter: Adapter, dtype: torch.dtype | None) -> dict[str, Pending]:
    """What adapter_model.safetensors holds, by key.

    Raises:
        RefusedError: if a factor is too large for `dtype`.
    """
    known = _header_keys(adapter.meta.header)
    tensors: dict[str, Pending] = {}
    groups = group_experts(adapter.modules)
    names = wrapper_names(groups)
    for path, experts in groups.items():
        tensors |= _expert_tensors(names[path], experts, dtype)
    for name, factors in adapter.modules.items():
        _check_range(name, factors, dtype)
        if not factors.layout.startswith("expert"):
            tensors |= _module_tensors(name, factors, dtype, known)
    return tensors | {key: pending(tensor) for key, tensor in adapter.extras.items()}


def _header_keys(header: bytes | None) -> Collection[str]:
    return json.loads(header) if header else ()


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
    kind = dtype or experts[0].A.dtype
    return {
        _key(name, "A", ()): Pending((rows, inner), kind, partial(stack_a, experts)),
        _key(name, "B", ()): Pending((out, rows), dtype or experts[0].B.dtype, partial(stack_b, experts)),
    }


def _check_range(name: str, factors: LoraFactors, dtype: torch.dtype | None) -> None:
    if dtype != torch.float16:
        return
    limit = torch.finfo(dtype).max
    for letter, tensor in (("A", factors.A), ("B", factors.B)):
        if tensor.numel() and float(tensor.abs().max()) > limit:
            raise RefusedError(
                f"module {name}: {letter} has numbers beyond {limit:g}, which float16 cannot hold",
                hint="export with --dtype bfloat16 or float32",
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
