"""The metadata of a small file, as a header holds it."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "by": "somebody",
    "error": 0.1,
    "format": 1,
    "hash": "A" * 22,
    "max_rank": 4,
    "method": "svd/1",
    "modules": [["a", 8, 6]],
    "parameters": 100,
    "source": [1000, None],
    "step": 0.25,
}
"""Every key that is never left out, with values that may stand there."""
