"""Tiny base models in folders, in every arrangement of weight files that a loader knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors

MODULE = "model.layers.0.self_attn.q_proj"


def llama_config(**more: Any) -> tf.LlamaConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return tf.LlamaConfig(vocab_size=20, num_key_value_heads=2, **sizes, **more)


def llama_tensors(value: float) -> dict[str, Tensor]:
    """The tensors of a tiny Llama, all of one value, so that a model tells the file it came from."""
    state = tf.LlamaForCausalLM(llama_config()).state_dict()
    return {name: torch.full(tensor.shape, value) for name, tensor in state.items()}


def write_config(folder: Path, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {**llama_config().to_dict(), "architectures": ["LlamaForCausalLM"], **more}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return folder


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file(dict(tensors), path, metadata={"format": "pt"})
    else:
        torch.save(dict(tensors), path)


def write_index(path: Path, tensors: Mapping[str, Tensor], *files: str) -> None:
    """An index and its files, which hold the tensors in turn."""
    names = sorted(tensors)
    place = {name: files[i % len(files)] for i, name in enumerate(names)}
    for file in files:
        write_weights(path.parent / file, {name: tensors[name] for name in names if place[name] == file})
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": place}))


def write_llama(folder: Path, value: float = 1.0, **config: Any) -> Path:
    """A folder with one weight file."""
    write_weights(write_config(folder, **config) / "model.safetensors", llama_tensors(value))
    return folder


def adapter(module: str = MODULE, out: int = 16, width: int = 16, seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(2, width, generator=generator), torch.randn(out, 2, generator=generator)
    return Adapter({module: LoraFactors(A, B, 0.5)})
