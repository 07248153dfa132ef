"""lorashare's shared components of several adapters; every file that it saves counts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from lorashare import SHAREModel
from safetensors.torch import load_file, save_file

from benchmarks.peers.drivers.exchange import Arrays, by_adapter, folder_bytes, serve

ANY = -1.0
"""Less than any share of the variance."""


def code(arrays: Arrays, setting: Any) -> tuple[int, Arrays]:
    """`setting`: the number of components, and which adapters are projected on them later, however little they hold."""
    components, later = setting
    given = by_adapter(arrays)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        sources = {name: _write(root / "in" / name, modules) for name, modules in given.items()}
        first = {name: path for name, path in sources.items() if name not in later}
        model = SHAREModel.from_adapters(first, num_components=components, device="cpu")
        for name in later:
            model.add_adapter(sources[name], name, variance_threshold=ANY, device="cpu")
        model.save_pretrained(str(root / "shared"))
        # Where each adapter once lay is no part of it.
        size = folder_bytes(root / "shared")
        loaded = SHAREModel.from_pretrained(str(root / "shared"))
        back: Arrays = {}
        for name in given:
            loaded.reconstruct(name, output_dir=str(root / "back" / name))
            back |= _read(root / "back" / name, name)
    return size, back


def _write(folder: Path, modules: dict[str, Any]) -> str:
    folder.mkdir(parents=True)
    tensors = {
        f"base_model.model.{module}.lora_{side}.weight": torch.from_numpy(array)
        for module, sides in modules.items()
        for side, array in sides.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    rank = len(next(iter(modules.values()))["A"])
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "base_model_name_or_path": "", "target_modules": []}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def _read(folder: Path, name: str) -> Arrays:
    found = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, side = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".lora_", 1)
        found[f"{name}|{module}|{side}"] = tensor.numpy()
    return found


if __name__ == "__main__":
    serve(code)
