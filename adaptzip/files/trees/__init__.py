"""Many files under one root, a folder or a bucket: each is written whole, and read whole."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from adaptzip.errors import CheckpointError, UsageError
from adaptzip.files.trees.bucket import Bucket
from adaptzip.files.trees.folder import Folder

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


def content_of(tree: Tree, name: str, what: str) -> bytes:
    """The content of a file that has to be there.

    Raises:
        CheckpointError: if it is not, or cannot be read.
    """
    try:
        return tree.read(name)
    except FileNotFoundError as error:
        raise CheckpointError(f"{tree.location}/{name}: no such file", hint=f"expected {what}") from error
