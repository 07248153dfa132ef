"""Folders of diffusers pipelines: several models, each in the folder of its component."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adaptzip.errors import BaseModelError
from adaptzip.files.names import is_file_name
from adaptzip.models.files import AGAIN, load_json
from adaptzip.models.folder import BaseModel

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
    found = {
        name: BaseModel.open(path / name)
        for name, value in load_json(path / _INDEX).items()
        if isinstance(value, list) and is_file_name(name) and _has_weights(path / name)
    }
    if not found:
        raise BaseModelError(f"{path}: is a pipeline none of whose components has its weights there", hint=AGAIN)
    return found


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin"))
