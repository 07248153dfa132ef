"""Writing a VB-LoRA as a folder that PEFT loads with the same update."""

from __future__ import annotations

from pathlib import Path

import torch

from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._native import Native
from adaptzip.checkpoints._peft_native import write_folder
from adaptzip.checkpoints.peft_vblora.fitness import fitting_sizes
from adaptzip.checkpoints.peft_vblora.layout import BANK, file_tensors
from adaptzip.errors import RefusedError, UsageError


def write(native: Native, folder: Path, options: WriteOptions) -> None:
    """Write adapter_config.json and adapter_model.safetensors, top-k indices and weights only, into `folder`.

    Raises:
        RefusedError: if PEFT's VB-LoRA cannot hold the adapter, or `options.dtype` its bank.
        UsageError: if the portable profile is asked for, which is one of LoRAs.
    """
    if options.portable:
        raise UsageError("`portable=True` is a profile of LoRAs", hint="leave it out, or export with `as_='peft'`")
    sizes = fitting_sizes(native)
    tensors = file_tensors(native, sizes, options.dtype)
    if not bool(torch.isfinite(tensors[BANK]).all()):
        dtype = str(tensors[BANK].dtype).removeprefix("torch.")
        raise RefusedError(f"the bank has numbers that {dtype} cannot hold", hint="export with `dtype='float32'`")
    targets = [name for name, module in native.modules.items() if module.tensors]
    own = {
        "exclude_modules": None,
        "num_vectors": sizes.vectors,
        "peft_type": "VBLORA",
        "r": sizes.rank,
        "save_only_topk_weights": True,
        "topk": sizes.top_k,
        "vblora_dropout": 0.0,
        "vector_length": sizes.length,
    }
    write_folder(native, tensors, targets, own, folder)
