"""One error tree for everything that bad input, a failed check or a refusal can raise.

Each error says what went wrong in one line and, where there is something to do about it, carries a `hint`.
The exit code that the command line maps it to is a class attribute, so both are documented in one place.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_muted: ContextVar[bool] = ContextVar("muted", default=False)


class AdaptzipError(Exception):
    """Root of every error that adaptzip raises on purpose.

    Args:
        message: one line naming the file, module or tensor, what was expected and what was found.
        hint: what the user can do about it, or None.

    Attributes:
        hint: the same.
        exit_code: what the command line exits with.

    Example:
        >>> try:
        ...     adaptzip.read("no-such-folder")
        ... except adaptzip.AdaptzipError as error:
        ...     print(type(error).__name__, error.exit_code, error)
        CheckpointError 2 no-such-folder: no such file or folder
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # What was raised in another process arrives with all that it told, whatever its class is made from.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[AdaptzipError], arguments: tuple[Any, ...], told: dict[str, Any]) -> AdaptzipError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(told)
    return error


class UsageError(AdaptzipError, ValueError):
    """An option or an argument that makes no sense (exit code 2)."""


class CheckpointError(AdaptzipError, ValueError):
    """An adapter checkpoint that is unreadable, malformed or incomplete (exit code 2)."""


class FormatError(AdaptzipError, ValueError):
    """A `.adz` file that breaks the format: truncated, corrupted or hostile (exit code 2)."""


class BaseModelError(AdaptzipError, ValueError):
    """A base model that is unreadable or does not fit the adapter (exit code 2)."""


class OutputError(AdaptzipError, OSError):
    """An output that exists already or cannot be written (exit code 2)."""


class RefusedError(AdaptzipError):
    """Valid input that adaptzip will not handle: not W + s*B@A, unknown `requires`, needs a base (exit code 3)."""

    exit_code = 3


class CheckFailedError(AdaptzipError):
    """A check that said no: `verify`, `diff --max-error`, a budget that can't be reached (exit code 1)."""

    exit_code = 1


class NoRoomError(CheckFailedError):
    """A size that no file keeps to.

    Attributes:
        least: bytes that the smallest file takes, or None where there is none.
    """

    def __init__(self, message: str, *, hint: str, least: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.least = least


class OutOfReachError(CheckFailedError):
    """A relative error that no step reaches with the settings that were fitted.

    Attributes:
        asked: the error that was asked for.
        least: what the settings leave at every step.
    """

    def __init__(self, asked: float, least: float, *, hint: str | None, settings: int = 1) -> None:
        which = "these settings leave" if settings == 1 else f"the best of {settings} settings leaves"
        super().__init__(f"relative error {asked:g} cannot be reached: {which} at least {least:.3g}", hint=hint)
        self.asked, self.least = asked, least


class StoppedError(AdaptzipError):
    """A run that a signal stopped, with what it had done kept; `exit_code` tells which signal."""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class AdaptzipWarning(UserWarning):
    """Something that was done, but not quite as asked, such as a budget that could not be filled."""


def warn(message: str) -> None:
    """Warn whoever called the package: the warning has the line outside of it."""
    if _muted.get():
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, AdaptzipWarning, stacklevel=level)


@contextmanager
def naming(what: object, *kinds: type[AdaptzipError]) -> Iterator[None]:
    """Put the file, module or row in front of errors of these kinds about what it holds."""
    try:
        yield
    except kinds as error:
        error.args = (f"{what}: {error}",)
        raise


@contextmanager
def without_warnings() -> Iterator[None]:
    """Leave this package's own warnings out, where what falls short is told otherwise or of no account; other threads
    keep theirs."""
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)
