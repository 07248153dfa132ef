"""How whoever waits is told how far something is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with a phase and the share of it that is done."""


def silent(phase: str, share: float) -> None:
    """Tells nobody."""
