"""Adapters in several files: an index says which tensor lies in which of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from adaptzip.errors import CheckpointError
from adaptzip.files.json_values import json_values
from adaptzip.files.names import is_file_name
from adaptzip.files.regular import read_regular
from adaptzip.files.weights import Weights, open_weights

INDEX_SUFFIX = ".index.json"
_AGAIN = "download or save it again, all parts and their index"


def shard_files(index: Path) -> tuple[Path, ...]:
    """The files that an index names, in sorted order.

    Raises:
        CheckpointError: if it is no index, or a file is missing.
        OSError: if the system cannot read it.
    """
    names = sorted(set(_weight_map(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index}: names {', '.join(missing[:3])}, which {'is' if len(missing) == 1 else 'are'} not there",
            hint=_AGAIN,
        )
    return tuple(index.parent / name for name in names)


def open_shards(index: Path) -> Weights:
    """All tensors of a sharded adapter, each from the file that the index names for it.

    Raises:
        CheckpointError: if a file is missing or unreadable, or holds other tensors than the index says.
        OSError: if the system cannot read a file.
    """
    expected = _weight_map(index)
    tensors: dict[str, Tensor] = {}
    for file in shard_files(index):
        for key, tensor in open_weights(file).tensors.items():
            if expected.get(key) != file.name:
                where = f"in {expected[key]}" if key in expected else "nowhere"
                raise CheckpointError(f"{file}: holds {key}, which {index.name} has {where}", hint=_AGAIN)
            tensors[key] = tensor
    lost = sorted(expected.keys() - tensors.keys())
    if lost:
        raise CheckpointError(f"{index}: expects {lost[0]} in {expected[lost[0]]}, which does not hold it", hint=_AGAIN)
    return Weights(tensors, {}, None)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content: Any = json_values(read_regular(index))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: is not valid JSON", hint=_AGAIN) from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(map(is_file_name, weight_map.values())):
        raise CheckpointError(f"{index}: has no weight_map from tensors to names of files beside it", hint=_AGAIN)
    return weight_map
