"""PEFT's `save_as_lora` at one rank for all modules, on a model of zeros that has the adapter's modules."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, save_as_lora
from safetensors.torch import load_file
from torch import nn

from benchmarks.peers.drivers.exchange import Arrays, serve


def code(arrays: Arrays, rank: Any) -> tuple[int, Arrays]:
    """Arrays are called module|side; the numbers count as float16."""
    names = sorted({name.split("|")[0] for name in arrays})
    given = {name: (torch.from_numpy(arrays[f"{name}|A"]), torch.from_numpy(arrays[f"{name}|B"])) for name in names}
    base = nn.ModuleDict({name: nn.Linear(A.shape[1], B.shape[0], bias=False) for name, (A, B) in given.items()})
    ranks = {name: len(A) for name, (A, _) in given.items()}
    config = LoraConfig(target_modules=names, r=max(ranks.values()), rank_pattern=ranks, alpha_pattern=ranks)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, (A, B) in given.items():
            layer = model.base_model.model[name]
            layer.lora_A["default"].weight.copy_(A)
            layer.lora_B["default"].weight.copy_(B)
    with tempfile.TemporaryDirectory() as folder:
        save_as_lora(folder, model, rank)
        found = load_file(Path(folder) / "adapter_model.safetensors")
    back = {
        f"{name}|{side}": found[f"base_model.model.{name}.lora_{side}.weight"].half().float().numpy()
        for name in names
        for side in "AB"
    }
    return 2 * sum(array.size for array in back.values()), back


if __name__ == "__main__":
    serve(code)
