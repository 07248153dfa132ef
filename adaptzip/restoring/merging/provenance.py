"""What a merged model was made of, in a file beside it: names, options and fingerprints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptzip._version import __version__
from adaptzip.adz.container.reader import read_header
from adaptzip.checkpoints._base_name import is_local
from adaptzip.files.digest import sampled_digest, sha256_of
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.merging.plan import MergePlan
from adaptzip.restoring.reading import archive_file, weight_files

NAME = "adaptzip_merge.json"
_FORMAT = 1
_LARGEST = 1 << 20
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
"""A repository's name on the Hub."""


@dataclass(frozen=True)
class Origin:
    """One adapter that a merged model is made of.

    Attributes:
        name: of its file or folder, without what lies above; None for one that was made in memory.
        weight: what its update was multiplied by before all were.
        files: the sha256 of each of its weight files, by name.
        error: |dW - dW'| / |dW| that a `.adz` file states, None for others.
        method: the method of a `.adz` file.
    """

    name: str | None
    weight: float = 1.0
    files: tuple[tuple[str, str], ...] = ()
    error: float | None = None
    method: str | None = None


@dataclass(frozen=True)
class Origins:
    """All the adapters that a merged model is made of.

    Attributes:
        adapters: one for each.
        method: how several became one, None for one alone.
    """

    adapters: tuple[Origin, ...] = (Origin(None),)
    method: str | None = None


def origins_of(paths: Sequence[str | Path], weights: Sequence[float] = (), method: str | None = None) -> Origins:
    """What the adapters at some paths are called, and their fingerprints.

    Raises:
        CheckpointError, FormatError: if one cannot be read.
    """
    given = weights or [1.0] * len(paths)
    found = tuple(_origin(Path(path), weight) for path, weight in zip(paths, given, strict=True))
    return Origins(found, method if len(found) > 1 else None)


def provenance(
    plan: MergePlan, origins: Origins, base_model: str | None, options: dict[str, Any], files: Iterable[Path]
) -> dict[str, Any]:
    """The content of the file; of paths on this machine it holds the last part alone.

    Args:
        plan: what was merged.
        origins: the adapters.
        base_model: the name that the adapter has for its base model.
        options: how it was merged.
        files: the weight files that were written.
    """
    return {
        "format": _FORMAT,
        "made_by": f"adaptzip {__version__}",
        "base": {
            "name": plan.base.path.resolve().name,
            "repository": repository(plan.base, base_model),
            "files": weights_of(plan.base),
        },
        "adapters": [
            {"name": o.name, "weight": o.weight, "sha256": dict(o.files), "method": o.method, "relative_error": o.error}
            for o in origins.adapters
        ],
        "method": origins.method,
        "options": options,
        "modules": plan.modules,
        "extras": plan.extras,
        "files": _fingerprints(files),
    }


def weights_of(base: BaseModel) -> dict[str, dict[str, Any]]:
    """The size and a fingerprint of each weight file of a base model, by name."""
    return _fingerprints(shard.path for shard in base.shards)


def load_provenance(folder: Path) -> dict[str, Any] | None:
    """What the file in a folder says, None where there is none that can be read. It proves nothing."""
    file = folder / NAME
    try:
        value = json.loads(file.read_bytes()) if file.stat().st_size <= _LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def told_sources(told: Mapping[str, Any]) -> str:
    """The base and the adapters that such a file names, as options of `check`; "" where it names none."""
    base, adapters = told.get("base"), told.get("adapters")
    words = [f"--base {base['name']}"] if isinstance(base, Mapping) and isinstance(base.get("name"), str) else []
    for adapter in adapters if isinstance(adapters, list) else ():
        if isinstance(adapter, Mapping) and isinstance(adapter.get("name"), str):
            weight = adapter.get("weight")
            words.append(f"--adapter {adapter['name']}{'' if weight in (1, None) else f':{weight}'}")
    return " ".join(words)


def repository(base: BaseModel, named: str | None) -> str | None:
    """The name that the base model has on the Hub, as far as the adapter or the base's config.json tells it."""
    return hub_name(named, base.config.get("_name_or_path"))


def hub_name(*names: object) -> str | None:
    """The first of some names that is a repository's on the Hub."""
    for name in names:
        if isinstance(name, str) and _HUB.fullmatch(name) and not is_local(name):
            return name
    return None


def _origin(path: Path, weight: float) -> Origin:
    files = tuple((file.name, sha256_of(file)) for file in weight_files(path))
    archive = archive_file(path)
    if archive is None:
        return Origin(path.resolve().name, weight, files)
    header = read_header(archive).header
    return Origin(path.resolve().name, weight, files, header.provenance.relative_error, header.method)


def _fingerprints(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    return {path.name: {"bytes": path.stat().st_size, "sample": sampled_digest(path)} for path in paths}
