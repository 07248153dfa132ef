"""What a small file may make of itself: budgets that are held before anything is made, and how to lift them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields

from adaptzip.errors import RefusedError

VARIABLE = "ADAPTZIP_ALLOW_LARGE"
"""Lifts every limit of a program and of those that it starts, if it is 1 in the environment."""
_HINT = "lift its limits with `limits=` if you trust the file (docs/security.md)"


@dataclass(frozen=True)
class Limits:
    """Budgets of a `.adz` file, told before it is decoded: of each so many, and more for each byte of the file.

    A file that is larger than a budget is refused with a `RefusedError`. The defaults are in docs/security.md.

    Attributes:
        modules, modules_per_byte: modules; `most_modules` whatever the file's size.
        name: characters of a module's name.
        names, names_per_byte: characters of all modules' names.
        numbers, numbers_per_byte: numbers of all factors, rank times (out + in) of every module.
        extras, extras_per_byte: tensors beside the factors.
        extra_bytes, extra_bytes_per_byte: bytes of these, as they are in memory.

    Example:
        >>> made = adaptzip.compress("my-adapter", "small.adz", max_error=0.3)
        >>> adaptzip.open("small.adz", limits=adaptzip.Limits(modules=1, modules_per_byte=0))
        Traceback (most recent call last):
        adaptzip.errors.RefusedError: small.adz: it has ... modules, and a file of ... bytes may have 1
    """

    modules: int = 2**12
    modules_per_byte: float = 1
    most_modules: int = 2**17
    name: int = 2**12
    names: int = 2**22
    names_per_byte: float = 2**10
    numbers: int = 2**22
    numbers_per_byte: float = 2**11
    extras: int = 2**12
    extras_per_byte: float = 1 / 64
    extra_bytes: int = 2**25
    extra_bytes_per_byte: float = 2**10

    @classmethod
    def none(cls) -> Limits:
        """No limits but those of the format."""
        return cls(**{field.name: 2**62 for field in fields(cls)})

    def held(self) -> AbstractContextManager[None]:
        """What these limits hold within, whatever is called there, but for calls that have `limits` of their own.

        Example:
            >>> _ = adaptzip.compress("my-adapter", "small.adz", max_error=0.3)
            >>> with adaptzip.Limits.none().held():
            ...     adapter = adaptzip.read("small.adz")
        """
        return limited(self)

    def room(self, size: int) -> Room:
        """The budgets of a file of so many bytes."""
        return Room(
            size,
            min(self.most_modules, int(self.modules + self.modules_per_byte * size)),
            self.name,
            int(self.names + self.names_per_byte * size),
            int(self.numbers + self.numbers_per_byte * size),
            int(self.extras + self.extras_per_byte * size),
            int(self.extra_bytes + self.extra_bytes_per_byte * size),
        )


@dataclass(frozen=True)
class Room:
    """The budgets of one file: see `Limits`."""

    size: int
    modules: int
    name: int
    names: int
    numbers: int
    extras: int
    extra_bytes: int

    def check(self, what: str, found: int) -> None:
        """Refuse what goes beyond a budget.

        Args:
            what: the budget's name.

        Raises:
            RefusedError: if it does.
        """
        most = getattr(self, what)
        if found > most:
            raise RefusedError(
                f"{_WORDS[what].format(found=found)}, and a file of {self.size:,} bytes may have {most:,}", hint=_HINT
            )


_WORDS = {
    "modules": "it has {found:,} modules",
    "name": "it has a module's name of {found:,} characters",
    "names": "its modules' names have {found:,} characters together",
    "numbers": "its factors may have {found:,} numbers",
    "extras": "it has {found:,} tensors beside the factors",
    "extra_bytes": "its tensors beside the factors have {found:,} bytes",
}
WHOLE = Limits.none().room(0)
"""Room for whatever the format allows."""

_current: ContextVar[Limits | None] = ContextVar("limits", default=None)


def current() -> Limits:
    """The limits that hold here."""
    found = _current.get()
    if found is not None:
        return found
    return Limits.none() if os.environ.get(VARIABLE) == "1" else Limits()


@contextmanager
def limited(limits: Limits | None) -> Iterator[None]:
    """Let other limits hold for what is done within; None leaves them as they are."""
    token = _current.set(_current.get() if limits is None else limits)
    try:
        yield
    finally:
        _current.reset(token)
