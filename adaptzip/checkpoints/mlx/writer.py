"""Writing an Adapter as mlx-lm loads it.

mlx-lm has one rank and one scale for all modules, and refuses tensors of another shape: every module is padded to the
largest rank with zeros, and scales are folded into `lora_b`, which leaves 1. `keys` has the whole names of the modules:
mlx-lm makes LoRA layers of these and no others, and a layer that the file had no tensors for would stay zero unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._base_name import KEY as BASE
from adaptzip.checkpoints._losses import Loss, losses
from adaptzip.checkpoints._parts import is_embedding
from adaptzip.checkpoints._rescaling import fold, in_range, narrow, pad
from adaptzip.checkpoints._safetensors import Contents
from adaptzip.checkpoints.mlx.names import to_mlx
from adaptzip.checkpoints.mlx.reader import MODEL
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError, UsageError
from adaptzip.files.tensors import Pending, build_header, fits, pending

WEIGHTS = "adapters.safetensors"
_METADATA = {"format": "mlx"}


def lost(adapter: Adapter) -> tuple[Loss, ...]:
    """What MLX has no room for: what is not of linear layers and embeddings, and DoRA of some modules alone."""
    magnitudes = [factors.magnitude is not None for factors in adapter.modules.values()]
    return losses(adapter, _cannot, magnitudes=all(magnitudes))


def contents(adapter: Adapter, options: WriteOptions) -> Contents:
    """What adapters.safetensors and adapter_config.json hold.

    The files are the source's own, byte for byte, where the adapter still has its header, its configuration's text, and
    factors that fit both.

    Raises:
        UsageError: if the portable profile is asked for.
        RefusedError: if the base's layers are repeated, or a factor is too large for the dtype.
    """
    if options.portable:
        raise UsageError(
            "`portable=True` is a profile of `as_='peft'`; MLX has one rank and one scale anyway",
            hint="leave `portable=True` out",
        )
    if adapter.resolved.layers:
        raise RefusedError(
            "MLX cannot hold layer_replication", hint="merge the adapter into its base model, and convert that"
        )
    adapter = replace(adapter, modules=to_mlx(adapter.modules, options.base_config))
    text, header = adapter.meta.config_text, adapter.meta.header
    tensors = _tensors(adapter, options.dtype)
    if text is None or header is None or not _tells(text, adapter) or not fits(tensors, header):
        adapter = _uniform(adapter, options.dtype)
        tensors, text = _tensors(adapter, options.dtype), json.dumps(_config(adapter), indent=4, sort_keys=True)
        header = build_header(tensors, _METADATA)
    return Contents(tensors, header, text)


def _cannot(name: str, factors: LoraFactors) -> str | None:
    if factors.layout == "conv":
        return "convolutions"
    if factors.layout.startswith("expert"):
        return "updates of whole parameters"
    if (factors.layout == "embedding") != is_embedding(name):
        return "embeddings by names, or layers by embeddings' names, that MLX's models do not have"
    if factors.layout == "embedding" and factors.magnitude is not None:
        return "embeddings with DoRA, of which MLX scales each token's row"
    return None


def _tells(text: str, adapter: Adapter) -> bool:
    """Whether a configuration is the adapter's own as it is."""
    if adapter.meta.dialect != "mlx":
        return False
    raw = json.loads(text)
    dora = any(factors.magnitude is not None for factors in adapter.modules.values())
    kind = raw.get("fine_tune_type", "dora" if raw.get("use_dora") else "lora")
    parameters = raw.get("lora_parameters")
    return (
        isinstance(parameters, Mapping)
        and raw.get(MODEL) == adapter.meta.base_model
        and kind == ("dora" if dora else "lora")
        and all(factors.scaling == parameters.get("scale") for factors in adapter.modules.values())
    )


def _uniform(adapter: Adapter, dtype: torch.dtype | None) -> Adapter:
    """The same update with one rank, and the scale inside B."""
    rank = max(1, *(factors.rank for factors in adapter.modules.values()))
    modules = {}
    for name, factors in adapter.modules.items():
        folded = in_range(name, pad(fold(factors), rank), dtype or adapter.meta.dtype)
        modules[name] = replace(folded, B=narrow(folded.B, factors.B.dtype))
        if dtype is None and adapter.meta.dtype is not None:
            modules[name] = replace(folded, A=folded.A.to(adapter.meta.dtype), B=folded.B.to(adapter.meta.dtype))
    return replace(adapter, modules=modules)


def _tensors(adapter: Adapter, dtype: torch.dtype | None) -> dict[str, Pending]:
    tensors: dict[str, Pending] = {}
    for name, factors in adapter.modules.items():
        tensors[f"{name}.lora_a"] = pending(factors.A.T, _known(dtype, factors.A))
        tensors[f"{name}.lora_b"] = pending(factors.B.T, _known(dtype, factors.B))
        if factors.magnitude is not None:
            tensors[f"{name}.m"] = pending(factors.magnitude, _known(dtype, factors.magnitude))
    return tensors


def _known(dtype: torch.dtype | None, tensor: Tensor) -> torch.dtype:
    """MLX reads no float64."""
    wanted = dtype or tensor.dtype
    return torch.float32 if wanted == torch.float64 else wanted


def _config(adapter: Adapter) -> dict[str, Any]:
    """adapter_config.json; what a source of MLX's says beside ranks and modules stays."""
    own = adapter.meta.config if adapter.meta.dialect == "mlx" else {}
    kept = {field: value for field, value in own.items() if field not in (BASE, MODEL, "use_dora")}
    dora = any(factors.magnitude is not None for factors in adapter.modules.values())
    rank = next(iter(adapter.modules.values())).rank
    return {
        **kept,
        "fine_tune_type": "dora" if dora else "lora",
        "lora_parameters": {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": sorted(adapter.modules)},
        "num_layers": -1,
        **({} if adapter.meta.base_model is None else {MODEL: adapter.meta.base_model}),
    }
