"""Names that every system takes, and what goes wrong with files in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from adaptzip.errors import AdaptzipError, CheckpointError, UsageError

_LONGEST = 255
"""Bytes of one part of a name."""
RIGHTS = "check the name, and that your credentials for it are set and allow this"


def checked_name(name: str) -> str:
    """A name that stays inside its tree on every system.

    Raises:
        UsageError: if it does not.
    """
    parts = name.split("/")
    # Windows drops a point or a space at the end; a lone surrogate is no text.
    fine = all(part and part[-1] not in ". " and len(part.encode(errors="replace")) <= _LONGEST for part in parts)
    if not fine or any(ord(sign) < 32 or sign in '\\:*?"<>|\x7f' or "\ud800" <= sign <= "\udfff" for sign in name):
        raise UsageError(f"{name!r} is no name of a file in a store", hint="expected parts of a path, with / between")
    return name


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Tell in one line what a file system, each of which has errors of its own, says of a file that is there."""
    try:
        yield
    except (FileNotFoundError, AdaptzipError):
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: cannot be read: {told(error)}", hint=RIGHTS) from error


def told(error: Exception) -> str:
    """One line of what was said."""
    said = error.strerror if isinstance(error, OSError) else None
    return " ".join(str(said or error or type(error).__name__).split())[:300]
