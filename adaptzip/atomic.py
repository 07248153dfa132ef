"""Writing a file or a folder all at once: a reader sees the old state or the new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from adaptzip.errors import AdaptzipError, OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HINT_FORCE = "choose another output or pass -f/--force to replace it"


def check_output(path: str | Path, force: bool = False) -> Path:
    """The file that `atomic_file` would write, before any work for it is done.

    Raises:
        OutputError: if it exists without `force`, or is a folder.
    """
    target = _target(path)
    if target.is_dir():
        raise OutputError(f"{path}: expected a file name, found a folder", hint="name a file inside it")
    _refuse_existing(target, force)
    return target


@contextmanager
def atomic_file(path: str | Path, force: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary sibling of `path` for writing; on success fsync it and rename it to `path`.

    On any exception, KeyboardInterrupt included, the temporary file is removed and `path` is untouched.

    Raises:
        OutputError: if `path` exists without `force`, is a folder, or cannot be written.
    """
    target = check_output(path, force)
    temporary = _sibling(target)
    try:
        with _reporting(target, temporary):
            with temporary.open("xb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            _refuse_existing(target, force)
            temporary.replace(target)
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(
    path: str | Path, force: bool = False, *, owned: Callable[[str], bool] | None = None
) -> Iterator[Path]:
    """Make a temporary sibling folder to fill; on success fsync its files and rename it to `path`.

    On any exception, KeyboardInterrupt included, the temporary folder is removed and `path` is as it was.
    An empty folder at `path` is taken over. With `force` a folder that is not empty is replaced only where `owned`
    says of the path of every file in it, relative and with slashes, that this kind of output writes it, so that no
    other file is lost.

    Args:
        path: the folder to make.
        force: replace an existing folder of the same kind.
        owned: tells by its name whether a file is part of this kind of output; None owns nothing.

    Raises:
        OutputError: if `path` exists and may not be replaced, or cannot be written.
    """
    target = _target(path)
    _refuse_folder(target, force, owned)
    temporary = _sibling(target)
    try:
        with _reporting(target, temporary):
            temporary.mkdir()
            yield temporary
            for file in sorted(temporary.rglob("*")):
                _sync(file)
            _sync_folder(temporary)
            _refuse_folder(target, force, owned)
            _swap(temporary, target)
            _sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _target(path: str | Path) -> Path:
    """The real place to write: links are followed, so that a link's target is replaced and not the link."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        parent = Path(path).parent
        raise OutputError(f"{path}: the folder {parent} does not exist", hint=f"make it first: mkdir -p {parent}")
    return target


def _sibling(target: Path) -> Path:
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")


def _refuse_existing(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise OutputError(f"{target}: exists already", hint=_HINT_FORCE)


def _refuse_folder(target: Path, force: bool, owned: Callable[[str], bool] | None) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{target}: expected a folder, found a file", hint="choose another output folder")
    entries = sorted(entry for entry in target.rglob("*") if not entry.is_dir() or entry.is_symlink())
    if not any(target.iterdir()):
        return
    if not force:
        raise OutputError(f"{target}: exists already and is not empty", hint=_HINT_FORCE)
    for entry in entries:
        name = entry.relative_to(target).as_posix()
        if entry.is_symlink() or owned is None or not owned(name):
            raise OutputError(
                f"{target}: holds {name}, which is no part of such an output; nothing was replaced",
                hint="choose another output folder, or move that entry away first",
            )


def _swap(temporary: Path, target: Path) -> None:
    """Put `temporary` where `target` is; where that fails, `target` is put back."""
    if not target.exists():
        temporary.rename(target)
        return
    backup = _sibling(target)
    target.rename(backup)
    try:
        temporary.rename(target)
    except BaseException:
        backup.rename(target)
        raise
    shutil.rmtree(backup, ignore_errors=True)


@contextmanager
def _reporting(target: Path, temporary: Path) -> Iterator[None]:
    """Turn an OSError of the output's own into an OutputError; errors about other files pass unchanged."""
    try:
        yield
    except AdaptzipError:
        raise
    except OSError as error:
        about = error.filename if isinstance(error.filename, str | None) else str(error.filename)
        own = about is None or about.startswith((str(temporary), str(target)))
        if not own and error.errno not in _FULL:
            raise
        reason = error.strerror or str(error)
        full = error.errno in _FULL
        hint = "free some space or choose another disk" if full else "choose a place you can write to"
        raise OutputError(f"{target}: cannot be written: {reason}; nothing was left behind", hint=hint) from error


def _sync(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename durable; systems that cannot open a folder have nothing to do here."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
