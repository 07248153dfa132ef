"""The one way from core's data to the rooms above: by name, when a method of theirs is called.

What users hold can so write itself, as `compressed.save(path)` does, while core knows neither files nor dialects.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def late(home: str) -> Callable[..., Any]:
    """A function of a room above.

    Args:
        home: its module and its name, as in "adaptzip.adz.container.writer:packed".
    """
    module, _, name = home.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
