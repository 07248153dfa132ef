"""Which files hold a base model's weights: those that transformers, or for its own folders diffusers, would load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptzip.errors import BaseModelError
from adaptzip.files.json_values import json_values
from adaptzip.files.names import is_file_name
from adaptzip.files.regular import read_regular
from adaptzip.models.links import check_link
from adaptzip.models.shards import check_pointer
from adaptzip.models.strangers import no_weights

AGAIN = "download the base model again"
_INDEX = ".index.json"
_TRANSFORMERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_DIFFUSERS = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)
_SHOWN = 80
"""Characters of a file's name that a message shows."""


@dataclass(frozen=True)
class WeightFiles:
    """Where a model's weights are.

    Attributes:
        files: the weight files, in the order of their names.
        index: the index that joins them, None for a single file.
    """

    files: tuple[Path, ...]
    index: Path | None = None


def find_weights(folder: Path, config: Mapping[str, Any]) -> WeightFiles:
    """The weight files that count, in the order of preference of transformers 5 or of diffusers.

    transformers takes model.safetensors before an index that lies beside it, diffusers the index first. A folder
    with neither's names may hold one safetensors file of any name, or the index of one variant.

    Raises:
        BaseModelError: if there are none, or the index or what it names is missing or malformed.
        RefusedError: if one is a link that leads out of the folder.
    """
    named = config.get("transformers_weights")
    for name in _preferred(config) if named is None else [_checked_name(folder, named)]:
        path = folder / name
        if path.is_symlink() or path.is_file():
            check_link(path, folder)
            return WeightFiles(_files_of_index(path), path) if name.endswith(_INDEX) else WeightFiles((path,))
    if named is not None:
        raise BaseModelError(f"{folder}: lacks {named}, which config.json names as transformers_weights", hint=AGAIN)
    variants = sorted(path for path in folder.glob("*.safetensors.index.*.json") if path.is_file())
    if len(variants) == 1:
        check_link(variants[0], folder)
        return WeightFiles(_files_of_index(variants[0]), variants[0])
    return WeightFiles((_only_safetensors(folder),))


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        BaseModelError: if it is none.
    """
    check_pointer(path)
    try:
        value = json_values(read_regular(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(f"{path}: is not readable JSON ({error})", hint=AGAIN) from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path}: expected a JSON object, found {type(value).__name__}", hint=AGAIN)
    return value


def _preferred(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of weight files, the first that counts first; diffusers writes its class into the configuration."""
    return (*_DIFFUSERS, *_TRANSFORMERS) if "_class_name" in config else (*_TRANSFORMERS, *_DIFFUSERS)


def _checked_name(folder: Path, named: object) -> str:
    if not is_file_name(named):
        raise BaseModelError(
            f"{folder / 'config.json'}: transformers_weights is {str(named)[:_SHOWN]!r}, expected the name of a file",
            hint=AGAIN,
        )
    return str(named)


def _files_of_index(path: Path) -> tuple[Path, ...]:
    weight_map = load_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BaseModelError(f"{path}: has no weight_map of file names", hint=AGAIN)
    for name in weight_map.values():
        if not is_file_name(name):
            raise BaseModelError(
                f"{path}: weight_map names {str(name)[:_SHOWN]!r}, expected a file in its own folder", hint=AGAIN
            )
    files = [path.parent / name for name in sorted(set(weight_map.values()))]
    missing = [file.name[:_SHOWN] for file in files if not (file.is_symlink() or file.is_file())]
    if missing:
        raise BaseModelError(
            f"{path.parent}: lacks the weight files {', '.join(missing[:3])}, which {path.name} names", hint=AGAIN
        )
    for file in files:
        check_link(file, path.parent)
    return tuple(files)


def _only_safetensors(folder: Path) -> Path:
    found = [p for p in sorted(folder.glob("*.safetensors")) if not p.name.startswith("adapter_model")]
    files = [p for p in found if p.is_symlink() or p.is_file()]
    if not files:
        raise no_weights(folder)
    if len(files) > 1:
        names = ", ".join(p.name for p in files[:4])
        raise BaseModelError(
            f"{folder}: holds {len(files)} safetensors files and no index that joins them: {names}",
            hint="add the model.safetensors.index.json that belongs to them, or leave one of them in the folder",
        )
    check_link(files[0], folder)
    return files[0]
