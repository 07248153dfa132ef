"""Where an output is made before it takes its place: a hidden folder beside it, which a killed run may leave.

A draft is a folder `.NAME.RANDOM.adaptzip` with an empty file `lock` in it, the new state as `new`, and for a moment,
on systems that cannot exchange two folders in one step, what it replaces as `old`. The run that makes it holds a lock
on the file until it ends, however it ends, so that a draft whose lock is free was left by a run that was killed.
Where a file system has no locks, drafts that were left stay.

A run that may be resumed notes in a file `done` what it is and which parts of `new` are finished
(`adaptzip.files.journal`). Where it is stopped after the first, its draft is kept for a run that is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptzip.errors import warn
from adaptzip.files.exchange import sync_folder
from adaptzip.files.journal import DONE, Journal
from adaptzip.files.locks import lock, open_file

NEW, OLD = "new", "old"
_LOCK = "lock"
_LONGEST = 160
"""Bytes of a name that leave room for the rest of a draft's, in the 255 that file systems allow."""


@contextmanager
def draft(target: Path, key: str | None = None) -> Iterator[Path]:
    """A draft for `target`: make the new state as `new` in it. What is left in it is removed at the end.

    Args:
        target: what it is a draft of.
        key: tells runs that make the same. The draft is then that of a run of this key that was stopped, if there is
            one, and is kept if this run is stopped in its turn, by a signal and not by an error, with a part finished.
    """
    folder, descriptor = (None if key is None else _resumed(target, key)) or _begin(target)
    try:
        yield folder
    except BaseException as error:
        if isinstance(error, Exception) or key is None or not Journal(folder / DONE, key).parts():
            _remove(folder, descriptor)
        else:
            os.close(descriptor)
            error.add_note(f"what was finished is kept in {folder}; the same command goes on with it")
        raise
    _remove(folder, descriptor)


def prefix_of(target: Path) -> str:
    """What the path of every draft for `target` starts with."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return str(target.with_name(f".{name}."))


def recover(target: Path, key: str | None = None) -> None:
    """Settle what killed runs left that wrote to `target`: what they had taken away is put back, the rest removed.

    Drafts of runs that are alive stay, and so does everything that merely has such a name.

    Args:
        target: what they wrote.
        key: drafts that a run of this key may resume stay too.
    """
    for folder in _drafts(target):
        with contextlib.suppress(OSError):
            if key is None or not _is_resumable(folder, key):
                _settle(folder, target)


def _drafts(target: Path) -> list[Path]:
    """The folders that have the name of a draft for `target`."""
    pattern = re.compile(re.escape(Path(prefix_of(target)).name) + r"[0-9a-f]{12}\.adaptzip")
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        return [Path(e.path) for e in entries if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    return []


def _is_resumable(folder: Path, key: str) -> bool:
    names = {entry.name for entry in folder.iterdir()}
    return names == {_LOCK, NEW, DONE} and _is_draft(folder, names) and bool(Journal(folder / DONE, key).parts())


def _resumed(target: Path, key: str) -> tuple[Path, int] | None:
    """The locked draft of a stopped run of this key; where there are several, the others are removed."""
    found: tuple[Path, int] | None = None
    for folder in _drafts(target):
        with contextlib.suppress(OSError):
            if not _is_resumable(folder, key):
                continue
            descriptor = open_file(folder / _LOCK)
            try:
                lock(descriptor)
            except OSError:
                os.close(descriptor)
                continue
            if found is None:
                found = folder, descriptor
            else:
                _remove(folder, descriptor)
    return found


def _begin(target: Path) -> tuple[Path, int]:
    """Make a draft and lock it; anew where another run took it for a leftover before it was locked."""
    while True:
        folder = Path(f"{prefix_of(target)}{secrets.token_hex(6)}.adaptzip")
        folder.mkdir()
        try:
            descriptor = open_file(folder / _LOCK, os.O_CREAT | os.O_EXCL)
        except FileNotFoundError:
            continue
        try:
            lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            continue
        except OSError:
            return folder, descriptor  # There are no locks here, so that nobody takes it for a leftover.
        if os.path.lexists(folder / _LOCK):
            return folder, descriptor
        os.close(descriptor)


def _settle(folder: Path, target: Path) -> None:
    """Settle one draft, unless its run is alive.

    Raises:
        OSError: if it is alive, or cannot be settled.
    """
    names = {entry.name for entry in folder.iterdir()}
    if not names:
        folder.rmdir()  # Its run was killed before it made the lock.
        return
    if not _is_draft(folder, names):
        return
    descriptor = open_file(folder / _LOCK)
    try:
        lock(descriptor)
        superseded = _put_back(folder, target)
    except OSError:
        os.close(descriptor)
        raise
    if superseded:
        _remove(folder, descriptor)
        return
    os.close(descriptor)
    warn(f"{folder / OLD}: is what {target} was before a run that was killed; move it where you want it, or remove it")


def _put_back(folder: Path, target: Path) -> bool:
    """Put back what a run had taken away when it was killed.

    Returns:
        Whether the draft holds nothing more that is wanted: False where somebody else wrote `target` since.
    """
    old = folder / OLD
    if os.path.lexists(old) and not os.path.lexists(target):
        old.rename(target)
        sync_folder(target.parent)
    return not (os.path.lexists(old) and os.path.lexists(folder / NEW))


def _is_draft(folder: Path, names: set[str]) -> bool:
    if _LOCK not in names or not names <= {_LOCK, NEW, OLD, DONE}:
        return False
    held = (folder / _LOCK).lstat()
    return stat.S_ISREG(held.st_mode) and held.st_size == 0


def _remove(folder: Path, descriptor: int) -> None:
    """Remove a draft; its lock goes last, so that what cannot be removed now is still known as a draft."""
    try:
        emptied = all([_deleted(folder / name) for name in (DONE, NEW, OLD)])
        if emptied:
            with contextlib.suppress(OSError):
                (folder / _LOCK).unlink()
    finally:
        os.close(descriptor)
    if emptied:
        with contextlib.suppress(OSError):
            (folder / _LOCK).unlink(missing_ok=True)  # Windows removes no file that is open.
            folder.rmdir()


def _deleted(path: Path) -> bool:
    """Delete a file or folder if it is there; whether nothing is there now."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()
    return not os.path.lexists(path)
