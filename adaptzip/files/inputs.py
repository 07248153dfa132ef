"""What is read and what is written lie apart: no output may be, hold, lie in or link to an input."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from adaptzip.errors import UsageError
from adaptzip.files.names import ARTEFACTS, SHARED

Mark = str | tuple[int, int]
"""What tells a file or folder from others: its real path, and device and inode where it exists."""

_ROLES = {
    "source": "its source",
    "config": "the configuration",
    "plan": "the plan",
    "base": "the base model",
    "tuned": "the tuned model",
    "basis": "the basis",
    "teacher": "the teacher",
    "data": "the data",
    "calibration": "the calibration texts",
}
_CONFIG = re.compile(r"adapter_config\.json")
_PARTS = re.compile(r"adapter_config\.json|adapter_model.*\.(safetensors|bin|json)")


def check_apart(output: str | Path, **inputs: object) -> None:
    """Refuse an output that would replace something that is read, or lie in it.

    Links count as what they lead to and hard links as the same file, so that spelling does not matter. A folder that
    is read counts with everything in it, one of artefacts with these alone; a weight file counts with its configuration
    and its other parts beside it.

    Args:
        output: the file or folder to be written, whether it exists or not.
        inputs: by role (`source`, `config`, `plan`, `base`, `tuned`, `basis`, `teacher`, `data`, `calibration`) a path
            or several; None and what is in memory are no paths.

    Raises:
        UsageError: if they are not apart.
    """
    place = _Place(output)
    for role, value in inputs.items():
        for path in _artefacts(value) if role == "basis" else _paths(value):
            clash = place.clash(path)
            if clash:
                raise UsageError(
                    f"{output}: the output would {clash} {_ROLES[role]} {path}", hint="choose another output"
                )


class _Place:
    """Where an output goes: what it is, what it lies in, and which files of an existing folder it replaces."""

    def __init__(self, output: str | Path) -> None:
        path = Path(output)
        real = _real(path)
        self.own = _marks(real)
        # A link is followed; it may nevertheless not lie in an input itself.
        named = _real(path.parent) / path.name
        self.around = {mark for start in (real, named) for folder in start.parents for mark in _marks(folder)}
        self.real = real

    @cached_property
    def inside(self) -> set[Mark]:
        """The files in a folder that exists."""
        return {mark for file in _walk(self.real, hidden=True) for mark in _inode(file)}

    def clash(self, path: Path) -> str | None:
        """How the output gets in the way of an input, as a verb, or None."""
        real = _real(path)
        if self._replaces(real):
            return "replace"
        members = {member: _real(member) for member in _members(path)}
        for member, there in members.items():
            if self._replaces(there):
                return f"replace {member.name}, a part of"
        if self._lies_in(real):
            return "lie in"
        for member, there in members.items():
            if self._lies_in(there):
                return f"lie in {member.name}, a part of"
        return None

    def _lies_in(self, real: Path) -> bool:
        return real.is_dir() and bool(_marks(real) & self.around)

    def _replaces(self, real: Path) -> bool:
        if _marks(real) & self.own or (_has_other_names(real) and not self.inside.isdisjoint(_inode(real))):
            return True
        return any(_marks(folder) & self.own for folder in real.parents)


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, str | Path):
        yield Path(value)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)


def _artefacts(value: object) -> Iterator[Path]:
    """Of a folder with artefacts these alone, since it may be a store, or where everything lies; else what is named."""
    for path in _paths(value):
        folders = (path / SHARED, path) if path.is_dir() else ()
        found = [file for folder in folders for suffix in ARTEFACTS.values() for file in folder.glob(f"*{suffix}")]
        yield from found or [path]


def _members(path: Path) -> Iterator[Path]:
    """The files that belong to an input, and folders that links in it lead to."""
    if path.is_dir():
        yield from _walk(path)
    elif path.is_file() and path.suffix in (".safetensors", ".bin", ".json"):
        wanted = _PARTS if path.name.startswith("adapter_model") else _CONFIG
        yield from (file for file in path.parent.iterdir() if wanted.fullmatch(file.name))


def _walk(folder: Path, *, hidden: bool = False) -> Iterator[Path]:
    """Files and links below a folder, those in hidden folders only if asked for."""
    for root, folders, files in os.walk(folder):
        if not hidden:
            folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(root)
        yield from (here / name for name in files)
        yield from (here / name for name in folders if (here / name).is_symlink())


def _has_other_names(path: Path) -> bool:
    """Whether a file has hard links, which are looked for in no other case."""
    return path.is_file() and path.stat().st_nlink > 1


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _marks(path: Path) -> set[Mark]:
    return {os.path.normcase(path), *_inode(path)}


def _inode(path: Path) -> Iterator[Mark]:
    """Device and inode of what a path leads to; nothing where it does not exist or the system has no inodes."""
    try:
        found = path.stat()
    except OSError:
        return
    if found.st_ino:
        yield found.st_dev, found.st_ino
