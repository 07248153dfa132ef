"""Opening what is named as a file, if it is one: a pipe keeps whoever opens it waiting, a device may do anything."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from io import BufferedReader
from pathlib import Path

LARGE = 2**28
"""Bytes of a file that is mapped into memory, not read as a whole."""
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def refuse_special(path: Path) -> None:
    """Refuse what is there and neither a file nor a folder, without opening it.

    Raises:
        OSError: naming what it is.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return  # Whoever opens it says so.
    kind = next((name for fits, name in _KINDS if fits(mode)), None)
    if kind is not None:
        raise OSError(errno.EINVAL, f"is {kind}, expected a file", str(path))


def open_regular(path: Path) -> BufferedReader:
    """A file, open for reading bytes.

    Raises:
        OSError: if it cannot be read, or is a pipe, a socket or a device.
    """
    refuse_special(path)
    return path.open("rb")


def read_regular(path: Path) -> bytes:
    """A file's content.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as handle:
        return handle.read()


def contents(handle: BufferedReader) -> bytearray | mmap.mmap:
    """All bytes of a file, to be written to without changing it: those of a large one are read when they are used.

    To touch a mapped page that is no longer in its file ends the process, so that only what is large is mapped.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is empty.
    """
    size = os.fstat(handle.fileno()).st_size
    if size > LARGE:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
    handle.seek(0)
    found = bytearray(size)
    read = handle.readinto(found)
    return found[:read]
