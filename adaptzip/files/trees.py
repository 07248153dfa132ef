"""Many files under one root, a folder or a bucket: each is written whole, and read whole."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from adaptzip.errors import AdaptzipError, CheckpointError, OutputError, UsageError
from adaptzip.files.exchange import sync_folder

DRAFTS = ".drafts"
"""The folder at the root of a tree in which files are made; what killed runs leave there may be removed."""
_ABANDONED = 3600
"""Seconds after which a draft that nobody writes to was left."""
_LONGEST = 255
"""Bytes of one part of a name."""
_SCHEME = "://"


class Tree(Protocol):
    """Files by name under one root; names are relative, with slashes, and stay inside.

    Attributes:
        location: the root, as it was named.
    """

    location: str

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: if there is none.
            CheckpointError: if it cannot be read, as from every function here that looks.
            UsageError: if the name leads outside, as from every function here.
        """

    def write(self, name: str, content: bytes) -> None:
        """Write a file, all or nothing, whether there was one or not; durable on return.

        Raises:
            OutputError: if it cannot be written.
        """

    def there(self) -> bool:
        """Whether the root is there; a bucket without objects may say either."""

    def names(self, folder: str = "") -> list[str]:
        """The files below a folder, sorted, by their whole names; those that begin with a dot are left out."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of the files that `names` tells, in that order, for one listing of a bucket."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def state(self, name: str) -> str | None:
        """What changes when a file is replaced, as far as the system tells; None where there is none."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing where there is none.

        Raises:
            OutputError: if it cannot be removed.
        """

    def left_over(self) -> list[str]:
        """Drafts that killed runs left, which may be removed: those that nobody has written to for an hour."""

    def near(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A file that a program may open by its path, itself or a copy that goes at the end.

        Raises:
            FileNotFoundError: if there is none.
        """


def tree_at(location: str | Path) -> Tree:
    """The tree of a folder, which need not be there, or of a bucket that fsspec knows, as `s3://bucket/store`.

    Raises:
        UsageError: if fsspec does not know such buckets, or lacks what it needs for them.
    """
    words = str(location)
    if _SCHEME not in words:
        return Folder(Path(location))
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(words)
    except (ImportError, ValueError) as error:
        told = " ".join(str(error).split())
        raise UsageError(f"{words}: {told}", hint="give a folder, or a bucket whose package is installed") from error
    if words.startswith(("file:", "local:")):
        return Folder(Path(root))
    return Bucket(words.rstrip("/"), system, root.rstrip("/"))


def checked_name(name: str) -> str:
    """A name that stays inside its tree on every system.

    Raises:
        UsageError: if it does not.
    """
    parts = name.split("/")
    # Windows drops a point or a space at the end; a lone surrogate is no text.
    fine = all(part and part[-1] not in ". " and len(part.encode(errors="replace")) <= _LONGEST for part in parts)
    if not fine or any(ord(sign) < 32 or sign in '\\:*?"<>|\x7f' or "\ud800" <= sign <= "\udfff" for sign in name):
        raise UsageError(f"{name!r} is no name of a file in a store", hint="expected parts of a path, with / between")
    return name


class Folder:
    """A tree that is a folder on this machine."""

    def __init__(self, root: Path) -> None:
        self.location = str(root)
        self._root = root

    def read(self, name: str) -> bytes:
        path = self._inside(name)
        with _reading(str(path)):
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
        with _reading(str(top)):
            for where, folders, files in os.walk(top):
                folders[:] = [name for name in folders if not name.startswith(".")]
                for path in (Path(where, name) for name in files if not name.startswith(".")):
                    # A link that leads nowhere is no file, and what another run removes meanwhile is none either.
                    with contextlib.suppress(FileNotFoundError), _no_circles(path):
                        found[path.relative_to(self._root).as_posix()] = path.stat().st_size
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
        with _reading(str(folder)):
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


@contextmanager
def _no_circles(path: Path) -> Iterator[None]:
    """Pass over what is a link that leads in a circle."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise


class Bucket:
    """A tree in one of fsspec's file systems, whose objects are replaced whole."""

    def __init__(self, location: str, system: Any, root: str) -> None:
        self.location = location
        self._system, self._root = system, root

    def read(self, name: str) -> bytes:
        where = self._at(name)
        with _reading(f"{self.location}/{name}"):
            content: bytes = self._system.cat_file(where)
            return content

    def write(self, name: str, content: bytes) -> None:
        where = self._at(name)
        try:
            self._system.pipe_file(where, content)
        except Exception as error:  # Each file system has errors of its own.
            raise OutputError(f"{self.location}/{name}: cannot be written: {_told(error)}", hint=_RIGHTS) from error

    def there(self) -> bool:
        with _reading(self.location):
            return bool(self._system.exists(self._root))

    def names(self, folder: str = "") -> list[str]:
        return list(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        top = self._at(folder) if folder else self._root
        found: Mapping[str, Mapping[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError), _reading(self.location):
            self._system.invalidate_cache()
            found = self._system.find(top, detail=True)
        inner = {path.removeprefix(self._root).lstrip("/"): int(told["size"] or 0) for path, told in found.items()}
        return {n: size for n, size in sorted(inner.items()) if not any(p.startswith(".") for p in n.split("/"))}

    def size(self, name: str) -> int | None:
        told = self._info(name)
        return None if told is None else int(told["size"])

    def state(self, name: str) -> str | None:
        told = self._info(name)
        if told is None:
            return None
        marks = ("ETag", "etag", "md5Hash", "blob_id", "checksum", "LastModified", "last_modified", "mtime", "created")
        return f"{told['size']}-" + "-".join(str(told[mark]) for mark in marks if mark in told)

    def remove(self, name: str) -> None:
        where = self._at(name)
        try:
            self._system.rm_file(where)
        except FileNotFoundError:
            return
        except Exception as error:  # As above.
            raise OutputError(f"{self.location}/{name}: cannot be removed: {_told(error)}", hint=_RIGHTS) from error

    def left_over(self) -> list[str]:
        return []  # A bucket shows no object that is not whole.

    @contextmanager
    def near(self, name: str) -> Iterator[Path]:
        from tempfile import TemporaryDirectory

        content = self.read(name)
        with TemporaryDirectory(prefix="adaptzip-") as folder:
            path = Path(folder) / name.rsplit("/", 1)[-1]
            path.write_bytes(content)
            yield path

    def _info(self, name: str) -> dict[str, Any] | None:
        where = self._at(name)
        with contextlib.suppress(FileNotFoundError), _reading(f"{self.location}/{name}"):
            self._system.invalidate_cache()
            told: dict[str, Any] = self._system.info(where)
            return told if told.get("type") == "file" else None
        return None

    def _at(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}"


_RIGHTS = "check the name, and that your credentials for it are set and allow this"


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Tell in one line what a file system, each of which has errors of its own, says of a file that is there."""
    try:
        yield
    except (FileNotFoundError, AdaptzipError):
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: cannot be read: {_told(error)}", hint=_RIGHTS) from error


def _told(error: Exception) -> str:
    """One line of what was said."""
    said = error.strerror if isinstance(error, OSError) else None
    return " ".join(str(said or error or type(error).__name__).split())[:300]


def content_of(tree: Tree, name: str, what: str) -> bytes:
    """The content of a file that has to be there.

    Raises:
        CheckpointError: if it is not, or cannot be read.
    """
    try:
        return tree.read(name)
    except FileNotFoundError as error:
        raise CheckpointError(f"{tree.location}/{name}: no such file", hint=f"expected {what}") from error
