"""Putting a new folder in the place of an old one, in one step where the system can, and making it durable."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_HERE = -100
"""AT_FDCWD of Linux: paths are relative to the working folder."""
_EXCHANGE = 2
"""RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS."""
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)
"""What a system or file system says that has no exchange; EPERM comes from sandboxes that do not know the call."""
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""What systems say that cannot open or sync a folder."""


def exchange(one: Path, other: Path) -> bool:
    """Let two paths of a file system change places, so that at no time either is missing.

    Returns:
        False, with nothing done, where there is no such call.

    Raises:
        OSError: if it fails.
    """
    call = _call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def replace_folder(new: Path, target: Path, old: Path) -> None:
    """Put `new` where `target` is; what was there is at `new` or at `old` afterwards, and may be removed.

    When it returns, the new state is durable. On any exception `target` is as it was.

    Args:
        new: the folder, on the file system of `target`.
        target: a folder, or nothing.
        old: a free path, for systems that cannot exchange. Where they are killed between the two steps that it takes
            then, `target` is missing and `old` is what was there.
    """
    mark = new.stat().st_ino
    try:
        if not os.path.lexists(target):
            new.rename(target)
        elif not exchange(new, target):
            target.rename(old)
            new.rename(target)
        sync_folder(new.parent)
        sync_folder(target.parent)
    except BaseException:
        _undo(new, target, old, mark)
        raise


def _undo(new: Path, target: Path, old: Path, mark: int) -> None:
    """Take the new folder, whose inode is `mark`, away from `target` again."""
    placed = target.is_dir() and target.stat().st_ino == mark
    if placed and os.path.lexists(new):
        exchange(new, target)
        return
    if placed:
        target.rename(new)
    if os.path.lexists(old):
        old.rename(target)


def sync_tree(folder: Path) -> None:
    """Make a folder durable with all files and folders in it, the innermost first."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            with Path(root, name).open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Make a folder's own entries durable; systems that cannot sync a folder have nothing to do here.

    Raises:
        OSError: if the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


@cache
def _call() -> Callable[[bytes, bytes], int] | None:
    """The C library's exchange of two paths, or None where it has none."""
    if sys.platform not in ("linux", "darwin"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    name = "renameat2" if sys.platform == "linux" else "renamex_np"
    function = getattr(library, name, None)
    if function is None:
        return None
    text, number = ctypes.c_char_p, ctypes.c_int
    if sys.platform == "linux":
        function.argtypes = (number, text, number, text, ctypes.c_uint)
        return lambda one, other: int(function(_HERE, one, _HERE, other, _EXCHANGE))
    function.argtypes = (text, text, ctypes.c_uint)
    return lambda one, other: int(function(one, other, _EXCHANGE))
