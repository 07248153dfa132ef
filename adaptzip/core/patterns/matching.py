"""Whether names fit patterns that stand in files, said by Python's `re`, as those that use the files ask it.

`re` tries all ways in which a pattern can be laid on a name, which may be more than anyone can wait for. A pattern that
can be laid in few ways is tried here and now; any other in a process of its own, which can be ended.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from adaptzip.core.patterns.asking import Helper
from adaptzip.core.patterns.ways import ways
from adaptzip.errors import RefusedError

LONGEST = 2**18
"""Most characters of a pattern."""
_SECONDS, _SHARE = 1.0, 0.1
"""What patterns may take of a thread's time: so much at once, and that share of all that passes."""
_STEPS = 3e5
"""What is tried in this process: ways times characters, at worst a few milliseconds."""
_SHOWN = 60

_helper = Helper()


class _Clock(threading.local):
    """What patterns took of this thread's time since it was last full."""

    begun = 0.0
    spent = 0.0

    def left(self) -> float:
        now = time.monotonic()
        if not self.begun:
            self.begun = now
        return _SECONDS + _SHARE * (now - self.begun) - self.spent

    def spend(self, seconds: float, pattern: str) -> None:
        """Raises: RefusedError: if that was more than there was left; it is full again then."""
        self.spent += seconds
        if self.left() < 0:
            self.fill()
            raise _too_slow(pattern)

    def fill(self) -> None:
        """Begin anew."""
        self.begun = self.spent = 0.0


_clock = _Clock()


def match(pattern: str, text: str) -> Mapping[str, Any] | None:
    """`re.match(pattern, text)`: the named groups, or None.

    Args:
        pattern: one that compiles (`is_pattern`).

    Raises:
        RefusedError: if patterns take more than a second of this thread's time, and a tenth of all that passes.
    """
    return _asked(pattern, text, whole=False)


def fullmatch(pattern: str, text: str) -> bool:
    """Whether `re.fullmatch(pattern, text)` is a match.

    Raises:
        RefusedError: as `match`.
    """
    return _asked(pattern, text, whole=True) is not None


def is_pattern(pattern: str) -> bool:
    """Whether a text is a regular expression that `re` compiles.

    Raises:
        RefusedError: as `match`, and if it has more than `LONGEST` characters.
    """
    if len(pattern) > LONGEST:
        raise RefusedError(
            f"the pattern {_shown(pattern)} has {len(pattern):,} characters, more than {LONGEST:,}",
            hint="name the modules in a list",
        )
    begun = time.perf_counter()
    try:
        _compiled(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    finally:
        _clock.spend(time.perf_counter() - begun, pattern)
    return True


def _asked(pattern: str, text: str, *, whole: bool) -> Mapping[str, Any] | None:
    begun = time.perf_counter()
    if _steps(pattern, -len(text) // 16 * -16) <= _STEPS:
        compiled = _compiled(pattern)
        found = compiled.fullmatch(text) if whole else compiled.match(text)
        said: Mapping[str, Any] | None = None if found is None else found.groupdict()
    else:
        said = _in_helper(pattern, text, whole)
    _clock.spend(time.perf_counter() - begun, pattern)
    return said


def _in_helper(pattern: str, text: str, whole: bool) -> Mapping[str, Any] | None:
    try:
        said = _helper.ask(pattern, text, whole=whole, seconds=_clock.left())
    except TimeoutError:
        _clock.fill()
        raise _too_slow(pattern) from None
    except OSError as error:
        raise RefusedError(
            f"the pattern {_shown(pattern)} needs a process of its own, which can't be started: {error}",
            hint="name the modules in a list",
        ) from error
    if isinstance(said, str):
        raise _too_slow(pattern)
    return None if said is None else dict(said[0])


@lru_cache(maxsize=2**14)
def _steps(pattern: str, length: int) -> float:
    return ways(pattern, length) * (length + len(pattern))


@lru_cache(maxsize=2**12)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _too_slow(pattern: str) -> RefusedError:
    return RefusedError(
        f"the pattern {_shown(pattern)} takes too long to be held against names",
        hint="name the modules in a list, or write the pattern without repetitions of repetitions",
    )


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= _SHOWN else f"{pattern[:_SHOWN]}...")
