"""Many files under one root, a folder or a bucket: each is written whole, and read whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from adaptzip.errors import CheckpointError, OutputError, UsageError
from adaptzip.files.exchange import sync_folder

DRAFTS = ".drafts"
"""The folder at the root of a tree in which files are made; what killed runs leave there may be removed."""
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
            UsageError: if the name leads outside, as from every function here.
        """

    def write(self, name: str, content: bytes) -> None:
        """Write a file, all or nothing, whether there was one or not; durable on return.

        Raises:
            OutputError: if it cannot be written.
        """

    def names(self, folder: str = "") -> list[str]:
        """The files below a folder, sorted, by their whole names; those that begin with a dot are left out."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def state(self, name: str) -> str | None:
        """What changes when a file is replaced, as far as the system tells; None where there is none."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing where there is none."""

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
        raise UsageError(f"{words}: {error}", hint="give a folder, or a bucket whose package is installed") from error
    if words.startswith("file:"):
        return Folder(Path(root))
    return Bucket(words.rstrip("/"), system, root.rstrip("/"))


def checked_name(name: str) -> str:
    """A name that stays inside its tree on every system.

    Raises:
        UsageError: if it does not.
    """
    parts = name.split("/")
    fine = all(part not in ("", ".", "..") and len(part.encode(errors="replace")) <= _LONGEST for part in parts)
    if not fine or any(ord(sign) < 32 or sign in '\\:*?"<>|\x7f' for sign in name):
        raise UsageError(f"{name!r} is no name of a file in a store", hint="expected parts of a path, with / between")
    return name


class Folder:
    """A tree that is a folder on this machine."""

    def __init__(self, root: Path) -> None:
        self.location = str(root)
        self._root = root

    def read(self, name: str) -> bytes:
        return self._inside(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        target, drafts = self._root / checked_name(name), self._root / DRAFTS
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

    def names(self, folder: str = "") -> list[str]:
        top = self._inside(folder) if folder else self._root
        found = []
        for where, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inner = Path(where).relative_to(self._root)
            found += [(inner / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)

    def size(self, name: str) -> int | None:
        path = self._inside(name)
        return path.stat().st_size if path.is_file() else None

    def state(self, name: str) -> str | None:
        path = self._inside(name)
        if not path.is_file():
            return None
        told = path.stat()
        return f"{told.st_ino}-{told.st_size}-{told.st_mtime_ns}"

    def remove(self, name: str) -> None:
        self._inside(name).unlink(missing_ok=True)

    @contextmanager
    def near(self, name: str) -> Iterator[Path]:
        path = self._inside(name)
        if not path.is_file():
            raise FileNotFoundError(str(path))
        yield path

    def _inside(self, name: str) -> Path:
        """The path of a name; links may lead elsewhere inside, and nowhere else."""
        path = self._root / checked_name(name)
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise UsageError(f"{name!r} leads out of {self._root}", hint="remove that link")
        return path


class Bucket:
    """A tree in one of fsspec's file systems, whose objects are replaced whole."""

    def __init__(self, location: str, system: Any, root: str) -> None:
        self.location = location
        self._system, self._root = system, root

    def read(self, name: str) -> bytes:
        content: bytes = self._system.cat_file(self._at(name))
        return content

    def write(self, name: str, content: bytes) -> None:
        try:
            self._system.pipe_file(self._at(name), content)
        except (OSError, NotImplementedError) as error:
            raise OutputError(f"{self.location}/{name}: cannot be written: {error}") from error

    def names(self, folder: str = "") -> list[str]:
        self._system.invalidate_cache()
        top = self._at(folder) if folder else self._root
        try:
            found: Sequence[str] = self._system.find(top)
        except FileNotFoundError:
            return []
        inner = [path.removeprefix(self._root).lstrip("/") for path in found]
        return sorted(name for name in inner if not any(part.startswith(".") for part in name.split("/")))

    def size(self, name: str) -> int | None:
        told = self._told(name)
        return None if told is None else int(told["size"])

    def state(self, name: str) -> str | None:
        told = self._told(name)
        if told is None:
            return None
        marks = ("ETag", "etag", "md5Hash", "blob_id", "checksum", "LastModified", "last_modified", "mtime", "created")
        return f"{told['size']}-" + "-".join(str(told[mark]) for mark in marks if mark in told)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._at(name))

    @contextmanager
    def near(self, name: str) -> Iterator[Path]:
        from tempfile import TemporaryDirectory

        content = self.read(name)
        with TemporaryDirectory(prefix="adaptzip-") as folder:
            path = Path(folder) / name.rsplit("/", 1)[-1]
            path.write_bytes(content)
            yield path

    def _told(self, name: str) -> dict[str, Any] | None:
        self._system.invalidate_cache()
        try:
            told: dict[str, Any] = self._system.info(self._at(name))
        except FileNotFoundError:
            return None
        return told if told.get("type") == "file" else None

    def _at(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}"


def content_of(tree: Tree, name: str, what: str) -> bytes:
    """The content of a file that has to be there.

    Raises:
        CheckpointError: if it is not, or cannot be read.
    """
    try:
        return tree.read(name)
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise CheckpointError(f"{tree.location}/{name}: {why}", hint=f"expected {what}") from error
