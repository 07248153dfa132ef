"""Writing a UniLoRA as a folder that PEFT loads with the same update."""

from __future__ import annotations

from pathlib import Path

import torch

from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._native import Native
from adaptzip.checkpoints._peft_native import kept_modules, refuse_extras, refuse_layouts, write_folder
from adaptzip.checkpoints.peft_unilora.layout import TITLE, VECTOR, file_tensors
from adaptzip.errors import RefusedError, UsageError


def write(native: Native, folder: Path, options: WriteOptions) -> None:
    """Write adapter_config.json and adapter_model.safetensors, places and scales among the tensors, into `folder`.

    Raises:
        RefusedError: if PEFT's UniLoRA cannot hold the adapter, or `options.dtype` its numbers.
        UsageError: if the portable profile is asked for, which is one of LoRAs.
    """
    if options.portable:
        raise UsageError("`portable=True` is a profile of LoRAs", hint="leave it out, or export with `as_='peft'`")
    modules = kept_modules(native)
    refuse_layouts(modules, TITLE)
    refuse_extras(native.adapter, TITLE)
    rank = max(len(module.A) for module in modules.values())
    tensors = file_tensors(modules, rank, options.dtype)
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise RefusedError(f"{key} has numbers that {dtype} cannot hold", hint="export with `dtype='float32'`")
    own = {
        "init_theta_d_bound": 0.02,
        "init_weights": True,
        "peft_type": "UNILORA",
        "proj_seed": 42,
        "r": rank,
        "save_indices": True,
        "theta_d_length": len(tensors[VECTOR]),
        "unilora_dropout": 0.0,
    }
    write_folder(native, tensors, list(modules), own, folder)
