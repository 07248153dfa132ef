"""What is said of known directions that a file's in-vectors are coded in; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptzip.cli import _text as text

_SHOWN = 8
_KINDS = {"normal": "normal", "uniform": "uniform", "mlx": "MLX uniform"}


def told(start: Mapping[str, Any]) -> str:
    """`seed 42 (uniform numbers), in 36 of 36 modules, correlation 0.972`."""
    where = f"in {start['framed_modules']:,} of {text.count(start['modules'], 'module')}"
    if start["source"] == "start":
        return (
            f"seed {start['seed']} ({_KINDS.get(start['generator'], start['generator'])} numbers), {where}, "
            f"correlation {text.number(start['correlation'])}"
        )
    what = {
        "base": "directions of the base weights (--base DIR)",
        "file": "a basis of its own (--basis FILE)",
        "reference": "another adapter's A (--basis PATH)",
    }[start["source"]]
    described = f", {start['description']}" if start["description"] else ""
    return f"{what}{described}, hash {start['hash'][:_SHOWN]}..., {where}"


def saving(start: Mapping[str, Any], module_bytes: int | None) -> str:
    """What it saves of the modules' bytes; "" where that is not known.

    Args:
        module_bytes: what they take all together, where that is known.
    """
    saved = start["saved_bytes"]
    if saved is None:
        return ""
    share = "" if module_bytes is None else f", {text.share(saved, module_bytes + saved)} of the modules' bytes"
    return f": saves about {text.size(saved)}{share}"
