"""Copies of GGUF files with other values and tensors, by the library gguf."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def opened(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values and the tensors of a file."""
    reader = gguf.GGUFReader(path)
    return {f.name: f.contents() for f in reader.fields.values()}, {t.name: t for t in reader.tensors}


def raw_values(path: Path) -> dict[str, tuple[Any, ...]]:
    """The type and the bytes of each value, in order."""
    found = {}
    for name, field in gguf.GGUFReader(path).fields.items():
        if not name.startswith("GGUF."):
            found[name] = (*field.types, *(part.tobytes() for part in field.parts[3:]))
    return found


def numbers(tensor: Any) -> Any:
    """A tensor's numbers, float32."""
    return gguf.dequantize(tensor.data, tensor.tensor_type)


def copied(
    path: Path,
    to: Path,
    *,
    values: Mapping[str, tuple[Any, Any]] | None = None,
    tensors: Mapping[str, Any] | None = None,
    files: int = 0,
) -> Path:
    """Write a file again.

    Args:
        values: a value and its type by key, None to leave the key out.
        tensors: arrays by name, those of another type with it; None to leave a tensor out.
        files: how many tensors go into each of several files; 0 for one file.
    """
    reader = gguf.GGUFReader(path)
    changes: dict[str, Any] = {} if values is None else dict(values)
    others: dict[str, Any] = {} if tensors is None else dict(tensors)
    arch = reader.fields["general.architecture"].contents()
    out = gguf.GGUFWriter(to, changes.pop("general.architecture", (arch,))[0], split_max_tensors=files)
    for field in reader.fields.values():
        if field.name not in changes and field.name != "general.architecture" and not field.name.startswith("GGUF."):
            sub = field.types[-1] if len(field.types) > 1 else None
            out.add_key_value(field.name, field.contents(), field.types[0], sub)
    for key, pair in changes.items():
        if pair is not None:
            out.add_key_value(key, *pair)
    for tensor in reader.tensors:
        if tensor.name not in others:
            kind = tensor.tensor_type if tensor.data.dtype == np.uint8 else None
            out.add_tensor(tensor.name, tensor.data, raw_dtype=kind)
    for name, array in others.items():
        if array is not None:
            out.add_tensor(name, *array if isinstance(array, tuple) else (array,))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return to
