"""How whoever waits is told how far something is, and stops it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float, float], None]
"""Called with a phase, how much of it is done, and how much there is, such as ("fitting", 12, 72) of 72 modules.

It is called from the thread that called the library. What it raises stops the work and reaches the caller as it is; an
output is then as it was before, and what long runs keep for the next (`merge`, `distill`) is kept.
"""


def silent(phase: str, done: float, total: float) -> None:
    """Tells nobody."""


def share_of(progress: Progress, phase: str) -> Callable[[float], None]:
    """What tells a phase by the share of it that is done."""
    return lambda share: progress(phase, share, 1.0)
