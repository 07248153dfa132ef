"""Making weight files durable while the next are written, and noting each, so that a merge that is stopped goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adaptzip.files.digest import sampled_digest
from adaptzip.files.journal import Journal

_PORTION = 1 << 27
"""Bytes that are written before the disk is asked to take them: all at once at the end, it would be waited for."""


def finished(folder: Path, journal: Journal | None) -> dict[str, tuple[str, ...]]:
    """The weight files in `folder` that an earlier run finished, each with its tensors that hold NaN or infinity."""
    parts = {} if journal is None else journal.parts()
    return {
        name: tuple(map(str, part.get("broken", ())))
        for name, part in parts.items()
        if (folder / name).is_file() and sampled_digest(folder / name) == part.get("sample")
    }


@dataclass(eq=False)
class Finisher:
    """Flushes files in a thread of its own.

    Attributes:
        journal: where finished files are noted, None for nowhere.
    """

    journal: Journal | None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _asked: list[Future[None]] = field(default_factory=list)
    _waiting: int = 0

    def wrote(self, handle: int, size: int) -> None:
        """Bytes of an open file have been written."""
        self._waiting += size
        if self._waiting >= _PORTION:
            self._waiting = 0
            self._asked.append(self._pool.submit(os.fsync, handle))

    def finish(self, path: Path, handle: int, broken: Sequence[str]) -> None:
        """An open file is complete, with the tensors in it that hold NaN or infinity as in the base."""
        self._waiting = 0
        self._asked.append(self._pool.submit(self._finish, path, handle, tuple(broken)))

    def wait(self) -> None:
        """Until all files are durable.

        Raises:
            OSError: if one could not be made so.
        """
        for future in self._asked:
            future.result()

    def close(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(cancel_futures=True)

    def _finish(self, path: Path, handle: int, broken: tuple[str, ...]) -> None:
        os.fsync(handle)
        if self.journal is not None:
            self.journal.note(path.name, sample=sampled_digest(path), broken=broken)


@contextmanager
def finishing(journal: Journal | None) -> Iterator[Finisher]:
    """A finisher; on return all that it was told of is durable.

    Raises:
        OSError: if a file could not be made durable.
    """
    finisher = Finisher(journal)
    try:
        yield finisher
        finisher.wait()
    finally:
        finisher.close()
