"""Writing an Adapter as llama.cpp loads it: alpha 0, which means the scale 1, and scales folded into lora_b.

One alpha for the whole file, which each module's rank divides, cannot say what patterns, rslora or mixed ranks mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._gguf.architectures import (
    Architecture,
    heads,
    heads_of,
    layer_count,
    layer_number,
    library,
    of_base,
    permuted,
    tensor_name,
)
from adaptzip.checkpoints._losses import Loss, losses
from adaptzip.checkpoints._rescaling import fold, in_range, narrow, pad
from adaptzip.checkpoints.gguf.reader import ALPHA, BASE_NAME
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError, UsageError

FILE = "adapter.gguf"
Q8_0 = "q8_0"
_BLOCK = 32


def lost(adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
    """What llama.cpp has no room for: all but the linear layers that the base's architecture has, and embeddings.

    Raises:
        UsageError: if no base is given, whose architecture the file names.
        RefusedError: if it is none that is known.
    """
    config = _base(options)
    return losses(adapter, partial(_cannot, of_base(config), config))


def write(adapter: Adapter, folder: Path, options: WriteOptions) -> None:
    """Write adapter.gguf into `folder`.

    Raises:
        UsageError: if the portable profile is asked for, or no base is given.
        RefusedError: if a module does not fit the base, or the dtype; if the package gguf is not installed.
    """
    if options.portable:
        raise UsageError(
            "`portable=True` is a profile of `as_='peft'`; a GGUF file has its scales folded in anyway",
            hint="leave `portable=True` out",
        )
    if adapter.resolved.layers:
        raise RefusedError("GGUF cannot hold layer_replication", hint="merge the adapter into its base model")
    gguf, config = library(), _base(options)
    architecture = of_base(config)
    tensors: dict[str, Tensor] = {}
    for name, factors in adapter.modules.items():
        tensors |= _tensors(name, _prepared(name, factors, adapter.meta.dtype, options), architecture, config)
    _write(gguf, folder / FILE, architecture, config, adapter.meta.base_model, tensors, options.coding == Q8_0)


def _base(options: WriteOptions) -> Mapping[str, Any]:
    if options.base_config is None:
        raise UsageError(
            "a GGUF file names its base's architecture, which the config.json of the base model tells",
            hint="give the base model's folder, which has it, with `base=`",
        )
    return options.base_config


def _cannot(architecture: Architecture, config: Mapping[str, Any], name: str, factors: LoraFactors) -> str | None:
    if factors.layout == "conv":
        return "convolutions"
    if factors.layout.startswith("expert"):
        return "updates of whole parameters"
    if tensor_name(architecture, name) is None:
        return f"modules that have no tensor of their own in {architecture.name}"
    # llama.cpp keeps one tensor for both where they are tied: it aborts at an update of the embedding, which it takes
    # for one of the head as well, and has no tensor for one of the head.
    if name in architecture.whole and config.get("tie_word_embeddings") is not False:
        return "updates of an embedding or head that the base ties together"
    if (factors.layout == "embedding") != (name == architecture.whole[0] if architecture.whole else False):
        return "embeddings where the base has linear layers, or the other way round"
    return None


def _prepared(name: str, factors: LoraFactors, own: torch.dtype | None, options: WriteOptions) -> LoraFactors:
    """The factors with the scale folded in and a rank of 1 at least, in the dtype to write."""
    folded = fold(pad(factors, max(factors.rank, 1)))
    dtype = torch.float32 if options.coding == Q8_0 else options.dtype or own
    if dtype is None:
        # llama.cpp computes with no float64.
        kept = [torch.float32 if t.dtype == torch.float64 else t.dtype for t in (factors.A, factors.B)]
        return replace(folded, A=folded.A.to(kept[0]), B=narrow(folded.B.float(), kept[1]))
    ranged = in_range(name, folded, dtype)
    return replace(ranged, A=ranged.A.to(dtype), B=ranged.B.to(dtype))


def _tensors(
    name: str, factors: LoraFactors, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """A module's two tensors by llama.cpp's names."""
    if layer_number(name) >= layer_count(config):
        raise _wrong_base(name, f"the base has {layer_count(config)} layers")
    a, b, tensor = factors.A, factors.B, tensor_name(architecture, name)
    count = heads_of(name, heads(config)) if architecture.permuted else None
    if count is not None:
        size = config.get("head_dim") or config.get("hidden_size", 0) // heads(config)[0]
        if b.shape[0] != count * size or size % 2:
            raise _wrong_base(name, f"has {b.shape[0]} rows, where the base has {count} heads of {size}")
        b = permuted(b, count)
    return {f"{tensor}.lora_a": a.T if factors.layout == "embedding" else a, f"{tensor}.lora_b": b}


def _wrong_base(name: str, what: str) -> RefusedError:
    return RefusedError(f"module {name}: {what}", hint="give the base that the adapter was trained on with `base=`")


def _write(
    gguf: ModuleType,
    path: Path,
    architecture: Architecture,
    config: Mapping[str, Any],
    base_name: str | None,
    tensors: Mapping[str, Tensor],
    eight_bits: bool,
) -> None:
    out = gguf.GGUFWriter(path, architecture.name)
    out.add_type(gguf.GGUFType.ADAPTER)
    out.add_string(gguf.Keys.Adapter.TYPE, "lora")
    out.add_float32(ALPHA, 0.0)
    if base_name is not None:
        out.add_base_model_count(1)
        out.add_string(BASE_NAME, base_name)
    if architecture.permuted:
        # llama.cpp does not ask for them; who reads the file back does.
        out.add_head_count(heads(config)[0])
        out.add_head_count_kv(heads(config)[1])
    for name, tensor in tensors.items():
        _add(gguf, out, name, tensor.contiguous(), eight_bits)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _add(gguf: ModuleType, out: Any, name: str, tensor: Tensor, eight_bits: bool) -> None:
    kind = gguf.GGMLQuantizationType
    if eight_bits:
        if tensor.shape[1] % _BLOCK:
            raise RefusedError(
                f"tensor {name} {list(tensor.shape)}: q8_0 has blocks of {_BLOCK} numbers, which do not fill its rows",
                hint="export with `dtype='float16'`, or an adapter whose ranks and widths are multiples of 32",
            )
        out.add_tensor(name, gguf.quants.quantize(tensor.numpy(), kind.Q8_0), raw_dtype=kind.Q8_0)
    elif tensor.dtype == torch.bfloat16:
        out.add_tensor(name, tensor.view(torch.uint8).numpy(), raw_dtype=kind.BF16)
    else:
        out.add_tensor(name, tensor.numpy())
