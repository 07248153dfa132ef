"""Adapters of a store as folders that an engine reads: a cache on disk, which processes share.

A folder is named by the hash of what it was made of, so that a file that changes gets another folder and nobody's is
changed. What is handed out is marked as used; where the folders outgrow the limit, the ones unused for longest go.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptzip._version import __version__
from adaptzip.errors import without_warnings
from adaptzip.files.digest import digest
from adaptzip.files.locks import lock, open_file
from adaptzip.files.trees import Tree
from adaptzip.fleet.store.access import Fetched, basis_of
from adaptzip.restoring.exporting import export

_LOCKS = "locks"
_ASKED_AGAIN = 0.02
"""Seconds between two looks at a lock that another process holds."""
_WEIGHTS = "adapter_model.safetensors"
_MARK = "adapter_config.json"
"""The file whose time tells when a folder was used; an export ends with all its files there at once."""


@dataclass(frozen=True)
class Folders:
    """The cache.

    Attributes:
        root: its folder, which need not be there; nothing else may lie in it.
        most_bytes: of all folders together; more where those that were used just now are more.
        grace: seconds after its last use within which a folder stays.
    """

    root: Path
    most_bytes: int
    grace: float = 600.0

    def get(self, tree: Tree, fetched: Fetched, base: str | None = None) -> Path:
        """The folder of an adapter in PEFT's portable form: one rank, and alpha equal to it.

        Args:
            base: the base model's path or name, for an adapter whose basis is that of its weights.

        Raises:
            CheckpointError, FormatError, RefusedError: if the adapter, or what it refers to, cannot be read or written
                so.
            OutputError: if the cache cannot be written.
        """
        key = key_of(fetched)
        with self._locked(key):
            made = not self._used(key)
            if made:
                self._make(tree, fetched, base, self.root / key)
        if made:
            self.trim()
        return self.root / key

    def again(self, key: str) -> bool:
        """Mark a folder as used now; whether it is there."""
        with self._locked(key):
            return self._used(key)

    def _make(self, tree: Tree, fetched: Fetched, base: str | None, folder: Path) -> None:
        reference = fetched.compressed.basis
        model = base if reference is not None and reference.source == "base" else None
        basis = basis_of(tree, fetched)
        # What is there without the mark is what a run left that was killed while it removed it.
        shutil.rmtree(folder, ignore_errors=True)
        with without_warnings():
            export(fetched.compressed, folder, portable=True, base=model, basis=basis)

    def _used(self, key: str) -> bool:
        if not (self.root / key / _WEIGHTS).is_file():
            return False  # A program that tidies by age may have taken it.
        try:
            os.utime(self.root / key / _MARK)
        except FileNotFoundError:
            return False
        return True

    def trim(self) -> None:
        """Remove the folders that were not used for longest, until the rest is within the limit."""
        known = sorted(self._known(), reverse=True)
        total = 0
        for used, size, key in known:
            total += size
            if total > self.most_bytes and time.time() - used > self.grace:
                self._remove(key)

    def _remove(self, key: str) -> None:
        """Remove a folder, unless it was used meanwhile or somebody has its lock."""
        folder, place = self.root / key, self.root / _LOCKS / key
        with contextlib.suppress(OSError):
            descriptor = open_file(place, os.O_CREAT)
            try:
                lock(descriptor)
                if time.time() - (folder / _MARK).stat().st_mtime > self.grace:
                    (folder / _MARK).unlink()
                    shutil.rmtree(folder)
                    place.unlink()
            finally:
                os.close(descriptor)

    def _known(self) -> Iterator[tuple[float, int, str]]:
        """Time of last use, bytes and name of each folder."""
        for folder in self.root.iterdir():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if not folder.name.startswith(".") and folder.name != _LOCKS:
                    size = sum(file.stat().st_size for file in folder.iterdir())
                    yield (folder / _MARK).stat().st_mtime, size, folder.name

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold the lock of a folder, against threads and processes alike."""
        place = self.root / _LOCKS / key
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.parent.mkdir(exist_ok=True)
        descriptor = _held(place)
        try:
            yield
        finally:
            os.close(descriptor)


def key_of(fetched: Fetched) -> str:
    """What a folder is called: the hash of the file, which names what it refers to, and of what wrote the folder."""
    return digest([fetched.content, (fetched.artefact or "").encode(), __version__.encode()])


def _held(place: Path) -> int:
    """Open and lock a file; anew where it was removed before it was locked."""
    while True:
        descriptor = open_file(place, os.O_CREAT)
        try:
            lock(descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), place.stat()):
                    return descriptor
        except BlockingIOError:
            time.sleep(_ASKED_AGAIN)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
