"""GGUF files that the library gguf writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
from torch import Tensor


def write_gguf(
    path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, str | int | float], arch: str = "llama"
) -> Path:
    """A LoRA in GGUF, of f32 tensors; `values` may replace what is said of it."""
    out = gguf.GGUFWriter(path, arch)
    for key, value in {"general.type": "adapter", "adapter.type": "lora", **values}.items():
        add = {str: out.add_string, int: out.add_uint32, float: out.add_float32}[type(value)]
        add(key, value)
    for name, tensor in tensors.items():
        out.add_tensor(name, tensor.contiguous().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path
