"""Folders of diffusers pipelines: several models, each in the folder of its component."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adaptzip.errors import BaseModelError
from adaptzip.files.names import is_file_name
from adaptzip.models.files import AGAIN, load_json
from adaptzip.models.folder import BaseModel
from adaptzip.models.links import check_link

_INDEX = "model_index.json"


def is_pipeline(path: Path) -> bool:
    """Whether a folder holds a pipeline."""
    return (path / _INDEX).is_file()


def components_of(path: Path) -> Mapping[str, BaseModel]:
    """The models of a pipeline by their component's name; schedulers, tokenisers and others are none.

    Raises:
        BaseModelError: if the folder's index is malformed, a model's weights are unreadable, or there are none.
        RefusedError: as `BaseModel.open`.
    """
    return {name: BaseModel.open(folder) for name, folder in component_folders(path).items()}


def component_folders(path: Path) -> dict[str, Path]:
    """The folders of a pipeline's models, which are not opened, by their component's name.

    Raises:
        BaseModelError: if the folder's index is malformed, or no component has its weights there.
        RefusedError: if a component is a link that leads out of the folder.
    """
    found = {
        name: path / name
        for name, value in load_json(path / _INDEX).items()
        if isinstance(value, list) and is_file_name(name) and _has_weights(path / name)
    }
    if not found:
        raise BaseModelError(f"{path}: is a pipeline none of whose components has its weights there", hint=AGAIN)
    for folder in found.values():
        check_link(folder, path)
    return found


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin"))
