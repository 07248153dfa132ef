"""The user's folder for what can be made again: files by key, the least recently used of which go first.

It is where the system keeps caches, `ADAPTZIP_CACHE` names another or is "off". Whoever reads a file checks it, and
whatever goes wrong here is no more than a file that is made again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adaptzip.files.atomic import atomic_file

VARIABLE = "ADAPTZIP_CACHE"
OFF = "off"


@dataclass(frozen=True)
class Shelf:
    """A folder of files of one kind.

    Attributes:
        folder: it need not be there.
        suffix: of the files' names; no others are touched.
        most_bytes: of all of them together.
    """

    folder: Path
    suffix: str
    most_bytes: int

    def path(self, key: str) -> Path:
        """Where the file of a key is, if it is there."""
        return self.folder / f"{key}{self.suffix}"

    def used(self, key: str) -> None:
        """Note that a file was used now."""
        with contextlib.suppress(OSError):
            os.utime(self.path(key))

    def put(self, key: str, write: Callable[[BinaryIO], None]) -> None:
        """Write a file in one step, whether there was one or not.

        Raises:
            OSError: if it cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(self.path(key), force=True) as handle:
            write(handle)

    def trim(self) -> None:
        """Remove the files that were not used for longest, until the rest is within bounds."""
        total = 0
        for _, size, path in sorted(self._files(), reverse=True):
            total += size
            if total > self.most_bytes:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of last use, bytes and path of every file."""
        found = []
        with contextlib.suppress(OSError):
            for path in self.folder.glob(f"*{self.suffix}"):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return found


def cache_folder() -> Path | None:
    """The folder; None where the user wants none, or has no home."""
    named = os.environ.get(VARIABLE)
    if named == OFF:
        return None
    try:
        return Path(named).expanduser() if named else _system_folder() / "adaptzip"
    except RuntimeError:  # There is no home.
        return None


def _system_folder() -> Path:
    """Where the system's programs keep their caches."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    name = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    given = Path(os.environ.get(name, ""))
    if given.is_absolute():
        return given
    return Path.home() / ("AppData/Local" if sys.platform == "win32" else ".cache")
