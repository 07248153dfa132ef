"""Writing a VB-LoRA as a folder that PEFT loads with the same update."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._config import CONFIG_NAME, ONLY, WEIGHT_NAMES
from adaptzip.checkpoints._effects import loaded_key
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._native import Native
from adaptzip.checkpoints.peft.targeting import exact_targets
from adaptzip.checkpoints.peft_vblora.fitness import fitting_sizes
from adaptzip.checkpoints.peft_vblora.layout import BANK, Sizes, file_tensors
from adaptzip.errors import RefusedError, UsageError
from adaptzip.files.tensors import build_header, pending, write_tensors

_KEPT = ("auto_mapping", "modules_to_save", "revision", "task_type")
"""Fields of the source's configuration that mean the same to every method of PEFT."""
_BIASES = {"all": "all"} | dict.fromkeys(ONLY, "vblora_only")


def write(native: Native, folder: Path, options: WriteOptions) -> None:
    """Write adapter_config.json and adapter_model.safetensors, top-k indices and weights only, into `folder`.

    Raises:
        RefusedError: if PEFT's VB-LoRA cannot hold the adapter, or `options.dtype` its bank.
        UsageError: if the portable profile is asked for, which is one of LoRAs.
    """
    if options.portable:
        raise UsageError("--portable is a profile of LoRAs", hint="leave it out, or export with --as peft")
    sizes = fitting_sizes(native)
    tensors = file_tensors(native, sizes, options.dtype)
    if not bool(torch.isfinite(tensors[BANK]).all()):
        dtype = str(tensors[BANK].dtype).removeprefix("torch.")
        raise RefusedError(f"the bank has numbers that {dtype} cannot hold", hint="export with --dtype float32")
    targets = [name for name, module in native.modules.items() if module.tensors]
    waiting = {key: pending(tensor) for key, tensor in (tensors | _extras(native, targets)).items()}
    with (folder / WEIGHT_NAMES[0]).open("wb") as handle:
        write_tensors(handle, waiting, build_header(waiting, {"format": "pt"}))
    config = build_config(native, sizes, targets)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def build_config(native: Native, sizes: Sizes, targets: Collection[str]) -> dict[str, Any]:
    """PEFT's configuration of a VB-LoRA whose modules are named in full; `targets` are those that are not zero."""
    meta = native.adapter.meta
    return {
        **{name: meta.config.get(name) for name in _KEPT},
        "base_model_name_or_path": meta.base_model,
        "bias": _BIASES.get(str(meta.config.get("bias")), "none"),
        "exclude_modules": None,
        "fan_in_fan_out": any(module.layout == "transposed" for module in native.modules.values()),
        "inference_mode": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "num_vectors": sizes.vectors,
        "peft_type": "VBLORA",
        "r": sizes.rank,
        "save_only_topk_weights": True,
        "target_modules": exact_targets(targets),
        "topk": sizes.top_k,
        "vblora_dropout": 0.0,
        "vector_length": sizes.length,
    }


def _extras(native: Native, targets: Collection[str]) -> dict[str, Tensor]:
    """The extras by the keys that PEFT expects: a module that is no longer a target has no base layer."""
    left_out = native.modules.keys() - set(targets)
    renamed = {}
    for key, tensor in native.adapter.extras.items():
        module, _, leaf = key.removeprefix(PREFIX).rpartition(".base_layer.")
        renamed[f"{PREFIX}{module}.{leaf}" if module in left_out else loaded_key(key, targets)] = tensor
    return renamed
