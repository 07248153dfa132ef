"""vlora's shared subspace of several adapters; every file that it saves counts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from vlora import SharedSubspace
from vlora.io import LoRAWeights

from benchmarks.peers.drivers.exchange import Arrays, by_adapter, folder_bytes, serve


def code(arrays: Arrays, setting: Any) -> tuple[int, Arrays]:
    """`setting`: the number of components, whether they are stored as NF4, and which adapters are added later."""
    components, nf4, later = setting
    given = {name: _weights(modules) for name, modules in by_adapter(arrays).items()}
    first = {name: one for name, one in given.items() if name not in later}
    shared = SharedSubspace.from_adapters(list(first.values()), task_ids=list(first), num_components=components)
    for name in later:
        shared.add_task(shared.project(given[name], name))
    with tempfile.TemporaryDirectory() as folder:
        (shared.save_quantized if nf4 else shared.save)(folder)
        size = folder_bytes(Path(folder))
        loaded = SharedSubspace.load(folder)
    back = {name: loaded.reconstruct(name) for name in given}
    return size, {
        f"{name}|{layer}|{side}": factors[layer].numpy()
        for name, one in back.items()
        for side, factors in (("A", one.lora_a), ("B", one.lora_b))
        for layer in one.layer_names
    }


def _weights(modules: dict[str, Any]) -> LoRAWeights:
    A, B = ({name: torch.from_numpy(module[side]) for name, module in modules.items()} for side in "AB")
    return LoRAWeights(layer_names=sorted(modules), lora_a=A, lora_b=B, rank=len(next(iter(A.values()))))


if __name__ == "__main__":
    serve(code)
