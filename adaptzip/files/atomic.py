"""Writing a file or a folder all at once: a reader sees the old state or the new one, never half of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from adaptzip.errors import AdaptzipError, OutputError
from adaptzip.files.drafts import NEW, OLD, draft, prefix_of, recover
from adaptzip.files.exchange import replace_folder, sync_folder, sync_tree

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REPLACE = "choose another output, or replace it with `force=True`"
"""What to do about an output that exists."""


def check_output(path: str | Path, force: bool = False) -> Path:
    """The file that `atomic_file` would write, before any work for it is done.

    Raises:
        OutputError: if it exists without `force`, or is no file.
    """
    target = _target(path)
    if target.is_dir():
        raise OutputError(f"{path}: expected a file name, found a folder", hint="name a file inside it")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: expected a file name, found a device or pipe", hint="choose another output")
    _refuse_existing(path, target, force)
    return target


def check_output_folder(path: str | Path, force: bool = False) -> Path:
    """The folder that `atomic_directory` would make, before any work for it is done; an empty one is welcome.

    What a folder that is replaced holds is looked at later, when it is known what belongs to the output.

    Raises:
        OutputError: if it is not empty without `force`, or is no folder.
    """
    target = _target(path)
    _refuse_folder(path, target, force, lambda _: True)
    return target


@contextmanager
def atomic_file(path: str | Path, force: bool = False) -> Iterator[BinaryIO]:
    """Open a draft of `path` for writing; on success fsync it and rename it to `path`.

    On any exception, KeyboardInterrupt included, the draft is removed and `path` is untouched. What runs that were
    killed left for `path` is settled first (`adaptzip.files.drafts`).

    Raises:
        OutputError: if `path` exists without `force`, is no file, or cannot be written.
    """
    with atomic_draft(path, force) as new, new.open("xb") as handle:
        yield handle


@contextmanager
def atomic_draft(path: str | Path, force: bool = False) -> Iterator[Path]:
    """As `atomic_file`, for a file that is made in a folder of its own, the parent of the path that is given.

    Raises:
        OutputError: likewise.
    """
    recover(_target(path))
    target = check_output(path, force)
    with _reporting(target), draft(target) as folder:
        new = folder / NEW
        yield new
        with new.open("rb+") as handle:
            os.fsync(handle.fileno())
        _refuse_existing(path, target, force)
        new.replace(target)
        sync_folder(target.parent)


@contextmanager
def atomic_directory(
    path: str | Path, force: bool = False, *, owned: Callable[[str], bool] | None = None, key: str | None = None
) -> Iterator[Path]:
    """Make a draft of a folder to fill; on success fsync all that is in it and let it take the place of `path`.

    On any exception, KeyboardInterrupt included, the draft is removed and `path` is as it was. Where the system can,
    old and new change places in one step, and the old is removed when the new is durable. What runs that were killed
    left for `path` is settled first (`adaptzip.files.drafts`).
    An empty folder at `path` is taken over. With `force` a folder that is not empty is replaced only where `owned`
    says of the path of every file in it, relative and with slashes, that this kind of output writes it, so that no
    other file is lost.

    Args:
        path: the folder to make.
        force: replace an existing folder of the same kind.
        owned: tells by its name whether a file is part of this kind of output; None owns nothing.
        key: tells runs that make the same, where one may go on with what another that was stopped had finished and
            noted with `Journal.beside`; the folder then holds all that this one had written.

    Raises:
        OutputError: if `path` exists and may not be replaced, or cannot be written.
    """
    target = _target(path)
    recover(target, key)
    _refuse_folder(path, target, force, owned)
    with _reporting(target), draft(target, key) as folder:
        (folder / NEW).mkdir(exist_ok=True)
        yield folder / NEW
        sync_tree(folder / NEW)
        _refuse_folder(path, target, force, owned)
        replace_folder(folder / NEW, target, folder / OLD)


def _target(path: str | Path) -> Path:
    """The real place to write: links are followed, so that a link's target is replaced and not the link."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        parent = Path(path).parent
        if target.parent.exists():
            raise OutputError(f"{path}: {parent} is no folder", hint="choose another output")
        raise OutputError(f"{path}: the folder {parent} does not exist", hint=f"make it first: mkdir -p {parent}")
    return target


def _refuse_existing(path: str | Path, target: Path, force: bool) -> None:
    if os.path.lexists(target) and not force:
        raise OutputError(f"{path}: exists already", hint=REPLACE)


def _refuse_folder(path: str | Path, target: Path, force: bool, owned: Callable[[str], bool] | None) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{path}: expected a folder, found a file", hint="choose another output folder")
    if not any(target.iterdir()):
        return
    if not force:
        raise OutputError(f"{path}: exists already and is not empty", hint=REPLACE)
    for entry in sorted(entry for entry in target.rglob("*") if not entry.is_dir() or entry.is_symlink()):
        name = entry.relative_to(target).as_posix()
        if entry.is_symlink() or owned is None or not owned(name):
            raise OutputError(
                f"{path}: holds {name}, which is no part of such an output; nothing was replaced",
                hint="choose another output folder, or move that entry away first",
            )


@contextmanager
def _reporting(target: Path) -> Iterator[None]:
    """Turn an OSError of the output's own into an OutputError; errors about other files pass unchanged."""
    try:
        yield
    except AdaptzipError:
        raise
    except OSError as error:
        if not _is_own(error, target) and error.errno not in _FULL:
            raise
        reason = error.strerror or str(error)
        full = error.errno in _FULL
        hint = "free some space or choose another disk" if full else "choose a place you can write to"
        raise OutputError(f"{target}: cannot be written: {reason}; nothing was left behind", hint=hint) from error


def _is_own(error: OSError, target: Path) -> bool:
    """Whether an error is about an output or its draft, and not about another file."""
    if error.filename is None:
        return True
    about = Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename))
    return target in (about, *about.parents) or str(about).startswith(prefix_of(target))
