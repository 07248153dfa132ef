"""The metadata of a small file, as its head holds it."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {"by": "somebody", "modules": [["a", 8, 6]]}
"""Every key that is never left out, with values that may stand there."""
