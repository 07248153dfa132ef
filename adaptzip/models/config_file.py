"""A base model's config.json: read, and checked where adaptzip relies on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptzip.errors import BaseModelError
from adaptzip.models.files import AGAIN, load_json
from adaptzip.models.links import check_link

_SHOWN = 40
_EXPECTED: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "model_type": ("a string", (str,)),
    "architectures": ("a list of strings", (list,)),
    "tie_word_embeddings": ("true or false", (bool,)),
    "vocab_size": ("a number", (int,)),
    "num_labels": ("a number", (int,)),
    "id2label": ("an object", (dict,)),
    "text_config": ("an object", (dict,)),
}


def load_config(folder: Path) -> dict[str, Any]:
    """The configuration of the base model in `folder`, empty where there is none.

    Raises:
        BaseModelError: if it is a link that leads nowhere, no JSON object, or has a value of another type than
            transformers takes.
        RefusedError: if it is a link that leads out of the folder.
    """
    path = folder / "config.json"
    if path.is_symlink():
        check_link(path, folder)
    if not path.exists():
        return {}
    if not path.is_file():
        raise BaseModelError(f"{path}: is no file, expected the base model's configuration", hint=AGAIN)
    config = load_json(path)
    for key, (what, types) in _EXPECTED.items():
        value = config.get(key)
        if value is not None and not _is_expected(value, types):
            raise BaseModelError(f"{path}: {key} is {str(value)[:_SHOWN]!r}, expected {what}", hint=AGAIN)
    return config


def _is_expected(value: object, types: tuple[type, ...]) -> bool:
    if isinstance(value, list):
        return list in types and all(isinstance(item, str) for item in value)
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))
