"""The names of an adapter's labels, where it brings them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.restoring.opening import base_config


def label_names(adapter: Adapter, folder: Path | None) -> tuple[str, ...] | None:
    """The name of each label by its number: of the adapter's configuration, or a config.json in its folder.

    None where neither has them, or names twice or numbers that leave some out make them none.
    """
    for config in (adapter.meta.config, base_config(folder)):
        names = None if config is None else _names(config)
        if names is not None:
            return names
    return None


def _names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = config.get("id2label")
    if not isinstance(labels, Mapping) or not labels:
        return None
    by_number = {str(number): name for number, name in labels.items()}
    names = tuple(by_number.get(str(number)) for number in range(len(by_number)))
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        return None
    return tuple(str(name) for name in names)
