"""What a merged model was made of, in a file beside it: names, options and fingerprints."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adaptzip._version import __version__
from adaptzip.adz.container.reader import read_header
from adaptzip.checkpoints._base_name import is_local
from adaptzip.checkpoints._places import has_configuration
from adaptzip.checkpoints._registry import weight_names
from adaptzip.errors import BaseModelError
from adaptzip.files.digest import sampled_digest, sha256_of
from adaptzip.files.hub_cache import named_by_cache
from adaptzip.files.regular import read_regular
from adaptzip.models.folder import BaseModel
from adaptzip.models.shards import read_metadata
from adaptzip.restoring.opening import archive_file, weight_files

NAME = "adaptzip_merge.json"
_FORMAT = 1
KEY = "adaptzip_merge"
"""The field of a single file's metadata that says the same."""
_LARGEST = 1 << 20
_UNSAID: Mapping[str, Any] = {"rank": None, "density": None, "majority": "total", "seed": 0}
"""What `combine` takes where nothing is said."""
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
"""A repository's name on the Hub."""


@dataclass(frozen=True)
class Origin:
    """One adapter that a merged model is made of.

    Attributes:
        name: of its file or folder, without what lies above, but for the folder of a file that has its name from it;
            None for one that was made in memory.
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
        settings: `rank`, `density` and others of that method, those that were given.
    """

    adapters: tuple[Origin, ...] = (Origin(None),)
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def origins_of(
    paths: Sequence[str | Path], weights: Sequence[float] = (), combining: Mapping[str, Any] | None = None
) -> Origins:
    """What the adapters at some paths are called, and their fingerprints.

    Args:
        paths: of one or several.
        weights: of each, where there are several.
        combining: `method` and the other arguments of `combine`.

    Raises:
        CheckpointError, FormatError: if one cannot be read.
    """
    given = weights or [1.0] * len(paths)
    found = tuple(_origin(Path(path), weight) for path, weight in zip(paths, given, strict=True))
    if combining is None or len(found) < 2:
        return Origins(found)
    settings = {name: value for name, value in combining.items() if name != "method" and value != _UNSAID[name]}
    return Origins(found, combining["method"], settings)


class Merged(Protocol):
    """What counts of a plan."""

    @property
    def modules(self) -> int:
        """How many modules are merged."""

    @property
    def extras(self) -> int:
        """How many extras are applied."""


def provenance(base: Mapping[str, Any], plan: Merged, origins: Origins, options: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a merge, but for the files that were written; of paths on this machine it holds the last part.

    Args:
        base: what is told of the base.
        plan: what was merged.
        origins: the adapters.
        options: how it was merged.
    """
    return {
        "format": _FORMAT,
        "made_by": f"adaptzip {__version__}",
        "base": dict(base),
        "adapters": [
            {"name": o.name, "weight": o.weight, "sha256": dict(o.files), "method": o.method, "relative_error": o.error}
            for o in origins.adapters
        ],
        "method": origins.method,
        "settings": dict(origins.settings),
        "options": dict(options),
        "modules": plan.modules,
        "extras": plan.extras,
    }


def told_base(base: BaseModel, named: str | None) -> dict[str, Any]:
    """What is told of a base; `named` is the name that the adapter has for it."""
    return {**told_place(base.path, named, base.config.get("_name_or_path")), "files": weights_of(base)}


def weights_of(base: BaseModel) -> dict[str, dict[str, Any]]:
    """The size and a fingerprint of each weight file of a base model, by name."""
    return fingerprints(shard.path for shard in base.shards)


def load_provenance(folder: Path) -> dict[str, Any] | None:
    """What the file in a folder says, or a safetensors file of itself; None where nothing is read. It is no proof."""
    file = folder / NAME
    try:
        if folder.is_file():
            value = json.loads((read_metadata(folder) or {}).get(KEY, "null"))
        else:
            value = json.loads(read_regular(file)) if file.stat().st_size <= _LARGEST else None
    except (OSError, ValueError, RecursionError, BaseModelError):
        return None
    return value if isinstance(value, dict) else None


def told_command(told: Mapping[str, Any]) -> str:
    """The options of `check` by which a merge is the one that such a file tells of; "" where it names no sources."""
    base, adapters, options = (told.get(name) for name in ("base", "adapters", "options"))
    words: list[str] = []
    if isinstance(base, Mapping) and isinstance(base.get("name"), str):
        words += ["--base", _told_base(base)]
    for adapter in adapters if isinstance(adapters, list) else ():
        if isinstance(adapter, Mapping) and isinstance(adapter.get("name"), str):
            weight = adapter.get("weight")
            words += ["--adapter", adapter["name"] + ("" if weight in (1, None) else f":{weight}")]
    if words and told.get("method") not in (None, "cat"):
        words += ["--method", str(told["method"])]
    settings = told.get("settings")
    for name, value in settings.items() if words and isinstance(settings, Mapping) else ():
        words += [f"--{name}", str(value)]
    if words and isinstance(options, Mapping):
        words += [] if options.get("scale") in (1, None) else ["--scale", f"{options['scale']:g}"]
        words += ["--untie"] if options.get("untie") is True else []
    return shlex.join(words)


def is_repository(name: object) -> bool:
    """Whether it is the name of a repository on the Hub."""
    return isinstance(name, str) and _HUB.fullmatch(name) is not None and not is_local(name)


def told_place(path: Path, *names: object) -> dict[str, Any]:
    """What is told of a base at a path; `revision` is the commit of a snapshot in the Hub's cache.

    Args:
        names: what may be its name on the Hub where it lies in no cache, the best first.
    """
    cached = named_by_cache(path)
    name, revision = cached or (path.resolve().name, None)
    return {
        "name": name,
        "repository": name if cached else next(filter(is_repository, names), None),
        "revision": revision,
    }


def _told_base(base: Mapping[str, Any]) -> str:
    revision = base.get("revision")
    return f"{base['name']}@{revision}" if isinstance(revision, str) else str(base["name"])


def _origin(path: Path, weight: float) -> Origin:
    files = tuple((file.name, sha256_of(file)) for file in weight_files(path))
    place = path.resolve()
    within = place.name in weight_names() and has_configuration(place.parent)
    name = f"{place.parent.name}/{place.name}" if within else place.name
    archive = archive_file(path)
    if archive is None:
        return Origin(name, weight, files)
    head = read_header(archive).head
    return Origin(name, weight, files, head.provenance.relative_error, head.metadata.method)


def fingerprints(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The size and a sample's digest of each file, by name."""
    return {path.name: {"bytes": path.stat().st_size, "sample": sampled_digest(path)} for path in paths}
