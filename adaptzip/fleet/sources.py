"""The adapters of a fleet: where each lies, and what it is called in the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic
from itertools import islice
from pathlib import Path, PurePosixPath

from adaptzip.errors import CheckpointError, UsageError
from adaptzip.files.names import SHARED
from adaptzip.files.presence import check_adapter
from adaptzip.fleet.store.layout import ADAPTER, INDEX, adapter_file, folded, is_store
from adaptzip.models.hub import on_the_hub
from adaptzip.restoring.opening import weight_files

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
"""Files by which a folder is an adapter, where folders of adapters are looked through."""
_CONFIG = "adapter_config.json"
_SINGLE = (ADAPTER, ".safetensors", ".gguf")
"""How files end that are an adapter each."""


@dataclass(frozen=True)
class Source:
    """One adapter.

    Attributes:
        name: in the store.
        path: of its folder or file.
        mark: changes with its files, as far as their sizes and times tell; "" where they cannot be looked at, which is
            told when the adapter is read.
    """

    name: str
    path: str
    mark: str


def sources_of(paths: Sequence[str | Path] | str | Path, apart: str = "") -> tuple[Source, ...]:
    """The adapters that paths name, sorted by their names in the store.

    A path is an adapter's folder or file, a shell pattern of these, or a folder whose folders hold adapters, at any
    depth; there an adapter is called by its path within, as `team/support`, and else by its folder's or file's name.

    Args:
        apart: a folder that is not looked into, as the store itself.

    Raises:
        UsageError: if there are none, or two would have one name.
        CheckpointError: if a path is not there.
    """
    found: dict[str, Path] = {}
    for given in [paths] if isinstance(paths, str | Path) else paths:
        for name, path in _named(given, Path(apart).resolve() if apart else None):
            adapter_file(name)
            if found.setdefault(name, path) != path:
                raise UsageError(
                    f"{found[name]} and {path} would both be called {name!r} in the store",
                    hint="give each a folder of its own, and name the folder above them",
                )
    if not found:
        raise UsageError("no adapters were named", hint="name folders or files of adapters, or a folder of these")
    for name in found:
        for above in PurePosixPath(name).parents:
            if above.suffix == ADAPTER and str(above.with_suffix("")) in found:
                raise UsageError(f"adapter {name!r} would lie in the file {above}", hint="rename that folder")
    clashing: dict[str, str] = {}
    for name in sorted(found):
        other = clashing.setdefault(folded(name), name)
        if other != name:
            raise UsageError(
                f"adapters called {other!r} and {name!r} differ by case or accents' spelling alone", hint="rename one"
            )
    return tuple(Source(name, str(path), _mark(path)) for name, path in sorted(found.items()))


def _named(given: str | Path, apart: Path | None) -> list[tuple[str, Path]]:
    path = Path(given)
    if not path.exists() and has_magic(str(path)):
        fitting = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not fitting:
            raise UsageError(f"{path}: nothing fits this pattern", hint="check it with ls")
        return [pair for one in fitting for pair in _named(one, apart)]
    if path.is_dir() and path.resolve() == apart:
        raise UsageError(f"{given}: is the store that adapters are put into", hint="name the adapters' own folders")
    if path.is_dir():
        _check_no_store(path)
    if on_the_hub(given, CheckpointError) is None:
        check_adapter(path)
    inner = [] if not path.is_dir() or _is_adapter(path) else _inside(path, apart)
    return [(_called(one, path), one) for one in inner] or [(_called(path), path)]


def _inside(folder: Path, apart: Path | None) -> list[Path]:
    """The adapters in a folder of adapters: folders that are one, and single files. Links are followed."""
    found: list[Path] = []
    seen: set[Path] = set()
    for where, folders, files in os.walk(folder, onerror=_cannot_be_listed, followlinks=True):
        path = Path(where)
        if path.resolve() in seen or path.resolve() == apart:
            folders.clear()  # A link back to a folder above, or the store.
            continue
        if not {INDEX, SHARED}.isdisjoint(folders):
            _check_no_store(path)
        seen.add(path.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if path != folder and (_is_adapter(path) or _lacks_weights(path)):
            found.append(path)
            folders.clear()
        else:
            found += [path / name for name in files if name.endswith(_SINGLE)]
    return sorted(found)


def _check_no_store(folder: Path) -> None:
    """Raises: UsageError: if it is a store, whose adapters were compressed before."""
    if is_store(folder):
        raise UsageError(
            f"{folder}: is a store, whose adapters are compressed already",
            hint="move it elsewhere, or name the folders beside it; `adaptzip store add` takes its .adz files",
        )


def _lacks_weights(folder: Path) -> bool:
    """Whether it says that it is an adapter, and holds none: as where an upload was not finished."""
    several = (file for file in folder.rglob("*") if file.name.endswith((*_WEIGHTS, *_SINGLE)))
    return (folder / _CONFIG).is_file() and next(several, None) is None


def _cannot_be_listed(error: OSError) -> None:
    """Raises: CheckpointError: always, since adapters in there would be left out."""
    told = error.strerror or str(error)
    raise CheckpointError(f"{error.filename}: cannot be listed: {told}", hint="check your rights to that folder")


def _is_adapter(folder: Path) -> bool:
    """Whether it holds one adapter: by its files' names, or as its one weight file is the only one down there."""
    if any((folder / name).exists() for name in _WEIGHTS) or any(folder.glob("*.index.json")):
        return True
    several = (file for file in folder.rglob("*") if file.name.endswith((*_WEIGHTS, *_SINGLE)))
    return len(list(folder.glob("*.safetensors"))) == 1 and len(list(islice(several, 2))) == 1


def _called(path: Path, above: Path | None = None) -> str:
    """The name of one adapter: its path within the folder above, or its own, without the end of a file."""
    own = path.name if path.name not in ("", "..") else path.resolve().name
    words = own if above is None else path.relative_to(above).as_posix()
    return words if path.is_dir() else words.removesuffix(path.suffix)


def _mark(path: Path) -> str:
    try:
        told = [file.stat() for file in (path, *weight_files(path), *path.glob("*.json"))]
    except (OSError, ValueError):
        return ""
    return " ".join(f"{one.st_size}-{one.st_mtime_ns}" for one in told)
