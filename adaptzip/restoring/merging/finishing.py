"""Making weight files durable while the next are written, and noting each, so that a merge that is stopped goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adaptzip.files.digest import sampled_digest
from adaptzip.files.journal import Journal
from adaptzip.restoring.merging.rounding import Ledger

_PORTION = 1 << 27
"""Bytes that are written before the disk is asked to take them: all at once at the end, it would be waited for."""


@dataclass(frozen=True, eq=False)
class Record:
    """What is remembered of finished files, for a run that goes on.

    Attributes:
        journal: where they are noted.
        ledger: what is noted of updates, which goes into the journal with the file.
        prefix: what stands before a file's name in the journal.
    """

    journal: Journal
    ledger: Ledger
    prefix: str = ""

    def restored(self, folder: Path) -> dict[str, list[str]]:
        """The files in `folder` that an earlier run finished, each with its tensors that hold NaN or infinity."""
        kept = {}
        for noted, part in self.journal.parts().items():
            name = noted.removeprefix(self.prefix)
            if (
                noted.startswith(self.prefix)
                and (folder / name).is_file()
                and sampled_digest(folder / name) == part.get("sample")
            ):
                self.ledger.restore(part["squares"])
                kept[name] = list(part["broken"])
        return kept

    def note(self, path: Path, names: Iterable[str], broken: Sequence[str]) -> None:
        """Note a file that is durable, with the names of its tensors."""
        squares = self.ledger.sums(names)
        self.journal.note(self.prefix + path.name, sample=sampled_digest(path), broken=broken, squares=squares)


@dataclass(eq=False)
class Finisher:
    """Flushes files in a thread of its own.

    Attributes:
        record: where finished files are noted, None for nowhere.
    """

    record: Record | None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _asked: list[Future[None]] = field(default_factory=list)
    _waiting: int = 0

    def wrote(self, handle: int, size: int) -> None:
        """Bytes of an open file have been written."""
        self._waiting += size
        if self._waiting >= _PORTION:
            self._waiting = 0
            self._asked.append(self._pool.submit(os.fsync, handle))

    def finish(self, path: Path, handle: int, names: Iterable[str], broken: Sequence[str]) -> None:
        """An open file is complete, with tensors of these names, some of which hold NaN or infinity as in the base."""
        self._waiting = 0
        self._asked.append(self._pool.submit(self._finish, path, handle, tuple(names), tuple(broken)))

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

    def _finish(self, path: Path, handle: int, names: Sequence[str], broken: Sequence[str]) -> None:
        os.fsync(handle)
        if self.record is not None:
            self.record.note(path, names, broken)


@contextmanager
def finishing(record: Record | None) -> Iterator[Finisher]:
    """A finisher; on return all that it was told of is durable.

    Raises:
        OSError: if a file could not be made durable.
    """
    finisher = Finisher(record)
    try:
        yield finisher
        finisher.wait()
    finally:
        finisher.close()
