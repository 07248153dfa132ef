"""A tree that is a bucket, in one of fsspec's file systems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptzip.errors import OutputError
from adaptzip.files.trees.saying import RIGHTS, checked_name, reading, told


class Bucket:
    """A tree in one of fsspec's file systems, whose objects are replaced whole."""

    def __init__(self, location: str, system: Any, root: str) -> None:
        self.location = location
        self._system, self._root = system, root

    def read(self, name: str) -> bytes:
        where = self._at(name)
        with reading(f"{self.location}/{name}"):
            content: bytes = self._system.cat_file(where)
            return content

    def write(self, name: str, content: bytes) -> None:
        where = self._at(name)
        try:
            self._system.pipe_file(where, content)
        except Exception as error:  # Each file system has errors of its own.
            raise OutputError(f"{self.location}/{name}: cannot be written: {told(error)}", hint=RIGHTS) from error

    def there(self) -> bool:
        with reading(self.location):
            return bool(self._system.exists(self._root))

    def names(self, folder: str = "") -> list[str]:
        return list(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        top = self._at(folder) if folder else self._root
        found: Mapping[str, Mapping[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError), reading(self.location):
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
            raise OutputError(f"{self.location}/{name}: cannot be removed: {told(error)}", hint=RIGHTS) from error

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
        with contextlib.suppress(FileNotFoundError), reading(f"{self.location}/{name}"):
            self._system.invalidate_cache()
            told: dict[str, Any] = self._system.info(where)
            return told if told.get("type") == "file" else None
        return None

    def _at(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}"
