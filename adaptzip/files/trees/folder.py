"""A tree that is a folder on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptzip.errors import OutputError, UsageError
from adaptzip.files.exchange import sync_folder
from adaptzip.files.trees.saying import checked_name, reading

DRAFTS = ".drafts"
"""The folder at the root of a tree in which files are made; what killed runs leave there may be removed."""
_ABANDONED = 3600
"""Seconds after which a draft that nobody writes to was left."""


class Folder:
    """A tree that is a folder on this machine."""

    def __init__(self, root: Path) -> None:
        self.location = str(root)
        self._root = root

    def read(self, name: str) -> bytes:
        path = self._inside(name)
        with reading(str(path)):
            if not path.is_file():  # A pipe would keep its reader waiting.
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            return path.read_bytes()

    def write(self, name: str, content: bytes) -> None:
        target, drafts = self._inside(name), self._root / DRAFTS
        draft = drafts / secrets.token_hex(8)
        try:
            drafts.mkdir(parents=True, exist_ok=True)
            with draft.open("xb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(self._inside(name))
            sync_folder(target.parent)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    def there(self) -> bool:
        return self._root.is_dir()

    def names(self, folder: str = "") -> list[str]:
        return list(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        top = self._inside(folder) if folder else self._root
        found = {}
        with reading(str(top)):
            for where, folders, files in os.walk(top, onerror=_unless_gone):
                folders[:] = [name for name in folders if not name.startswith(".")]
                for path in (Path(where, name) for name in files if not name.startswith(".")):
                    # A link that leads nowhere is no file, and what another run removes meanwhile is none either.
                    with contextlib.suppress(FileNotFoundError), _no_circles(path):
                        told = path.stat()
                        if stat.S_ISREG(told.st_mode):
                            found[path.relative_to(self._root).as_posix()] = told.st_size
        return dict(sorted(found.items()))

    def size(self, name: str) -> int | None:
        told = self._told(name)
        return None if told is None else told.st_size

    def state(self, name: str) -> str | None:
        told = self._told(name)
        return None if told is None else f"{told.st_ino}-{told.st_size}-{told.st_mtime_ns}"

    def remove(self, name: str) -> None:
        path = self._inside(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed: {error.strerror or error}") from error

    def left_over(self) -> list[str]:
        folder = self._root / DRAFTS
        with reading(str(folder)):
            drafts = list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
        now, found = time.time(), []
        for draft in drafts:
            with contextlib.suppress(FileNotFoundError):
                told = draft.lstat()
                if stat.S_ISREG(told.st_mode) and now - told.st_mtime > _ABANDONED:
                    found.append(f"{DRAFTS}/{draft.name}")
        return sorted(found)

    @contextmanager
    def near(self, name: str) -> Iterator[Path]:
        path = self._inside(name)
        if not path.is_file():
            raise FileNotFoundError(str(path))
        yield path

    def _told(self, name: str) -> os.stat_result | None:
        """What the system tells of a file, at one time; None where there is none."""
        path = self._inside(name)
        try:
            told = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return told if stat.S_ISREG(told.st_mode) else None

    def _inside(self, name: str) -> Path:
        """The path of a name; links may lead elsewhere inside, and nowhere else."""
        path = self._root / checked_name(name)
        try:
            inside = path.resolve().is_relative_to(self._root.resolve())
        except (OSError, RuntimeError):
            inside = False  # A link that leads in a circle leads nowhere.
        if not inside:
            raise UsageError(f"{name!r} leads out of {self._root}", hint="remove that link")
        return path


def _unless_gone(error: OSError) -> None:
    """Pass on why a folder cannot be listed, lest it be taken for empty; not that another run removed it."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _no_circles(path: Path) -> Iterator[None]:
    """Pass over what is a link that leads in a circle."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
