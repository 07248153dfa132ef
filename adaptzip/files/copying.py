"""Moving bytes between open files at given places, by the kernel where it can."""

from __future__ import annotations

import errno
import os

_PIECE = 1 << 22
"""Bytes that pass through memory at a time where the kernel does not copy."""
_CANNOT = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)


def copy_range(source: int, start: int, target: int, place: int, size: int) -> None:
    """Copy `size` bytes at `start` of one open file to `place` of another, whose own positions stay as they are.

    Raises:
        EOFError: if the source ends before.
        OSError: if the system cannot read or write.
    """
    done = _by_kernel(source, start, target, place, size)
    while done < size:
        data = os.pread(source, min(_PIECE, size - done), start + done)
        if not data:
            raise EOFError
        write_at(target, memoryview(data), place + done)
        done += len(data)


def write_at(target: int, data: memoryview, place: int) -> None:
    """Write all of `data` to `place` of an open file.

    Raises:
        OSError: if the system cannot write.
    """
    done = 0
    while done < len(data):
        done += os.pwrite(target, data[done:], place + done)


def _by_kernel(source: int, start: int, target: int, place: int, size: int) -> int:
    """How many bytes the kernel copied; it may do none between some file systems."""
    done = 0
    while done < size and hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(source, target, size - done, start + done, place + done)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            return done
        if not count:
            return done
        done += count
    return done
