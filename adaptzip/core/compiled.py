"""Functions that numba compiles on first use and keeps on disk: the same results as without it, many times as fast.

numba looks for a place beside the package, then in the user's cache folder; `NUMBA_CACHE_DIR` names another. Where
nothing can be written, functions are compiled anew in each process. numba takes half a second to import, so whoever has
kernels imports their file when it has work for them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_WORTHWHILE = 2**20
"""Numbers that take about as long to code without numba as numba takes to import."""

_log = logging.getLogger(__name__)


@cache
def available() -> bool:
    """Whether there is a numba that goes with this numpy."""
    try:
        import_module("numba")
    except ImportError:
        _log.info("numba is not installed, or not for this numpy: coding takes several times as long")
        return False
    return True


class _Work:
    """How much was done without kernels: once they would have paid for being imported, they are."""

    numbers = 0


def worthwhile(numbers: int) -> bool:
    """Whether kernels are to code so many numbers: where they are imported already, or a process codes many."""
    _Work.numbers += numbers
    return ("numba" in sys.modules or _Work.numbers > _WORTHWHILE) and available()


def compiled(function: F) -> F:
    """A function, compiled for the types that it is called with; float32 operations are rounded one by one.

    It runs without Python's lock, so that threads run it side by side.
    """
    return _compiled(function, {})


def inlined(function: F) -> F:
    """As `compiled`, for a function that others hold in themselves wherever they call it."""
    return _compiled(function, {"forceinline": True})


def _compiled(function: F, more: dict[str, Any]) -> F:
    _tell_of_compiling()
    numba: Any = import_module("numba")
    options = {"nogil": True, "error_model": "numpy"} | more
    try:
        found: F = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # There is no place for a cache.
        found = numba.njit(**options)(function)
    return found


@cache
def _tell_of_compiling() -> None:
    """Log the first time that one of this package's functions is compiled instead of being read from the cache."""
    event: Any = import_module("numba.core.event")
    package = __name__.partition(".")[0]

    class Listener(event.Listener):  # type: ignore[misc]
        told = False

        def on_start(self, found: Any) -> None:
            if not self.told and found.data["dispatcher"].py_func.__module__.startswith(package):
                self.told = True
                _log.info("compiling for this processor, which takes some seconds and is done once")

        def on_end(self, found: Any) -> None:
            pass

    event.register("numba:compile", Listener())
