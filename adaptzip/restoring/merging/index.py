"""The index of a merged model in several files, and other JSON that lies beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from adaptzip.restoring.merging.names import index_file_name, weight_file_names
from adaptzip.restoring.merging.plan import MergePlan


def write_index(plan: MergePlan, folder: Path) -> None:
    """Write the index of a model in several files."""
    name = index_file_name(plan.base)
    if name is not None:
        write_json(folder / name, _index(plan))


def _index(plan: MergePlan) -> dict[str, object]:
    """The base's index with the merged model's names, files and sizes."""
    weight_map, size, numbers = {}, 0, 0
    for file, outputs in zip(weight_file_names(plan.base), plan.outputs, strict=True):
        for output in outputs:
            weight_map[output.stored.name] = file
            size += output.stored.bytes
            numbers += torch.Size(output.stored.shape).numel()
    index = dict(plan.base.index or {})
    known = index.get("metadata")
    metadata = (dict(known) if isinstance(known, Mapping) else {}) | {"total_size": size}
    if "total_parameters" in metadata:
        metadata["total_parameters"] = numbers
    return index | {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}


def write_json(path: Path, value: object) -> None:
    """Write a file that people may read, too."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
