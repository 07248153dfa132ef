"""Locks that the system itself lets go of when a process ends, however it ends."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt

    def lock(descriptor: int) -> None:
        """Lock an open file for this process.

        Raises:
            OSError: if another one holds it.
        """
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def lock(descriptor: int) -> None:
        """Lock an open file for whoever shares the descriptor.

        Raises:
            BlockingIOError: if it is locked already.
            OSError: if the file system has no locks.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_file(path: str | os.PathLike[str], flags: int = 0) -> int:
    """Open a file that a lock goes on; links are not followed."""
    return os.open(path, os.O_RDWR | flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)
