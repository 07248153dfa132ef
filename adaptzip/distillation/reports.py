"""What a file says of its training (formats/adz-1.md, section 2, `distilled`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from adaptzip.distillation.evaluation import Score

_FIGURES = 4
_LONGEST = 0.1234567
"""A figure that takes as much room as any."""
ROWS = ("none", "teacher", "fitted", "distilled")


def report(
    rows: Mapping[str, Score], metric: str | None, *, texts: int, held_out: int, step: int, steps: int
) -> dict[str, Any]:
    """Scores on the texts held out, in few digits, and how long training was.

    Args:
        rows: the scores of `ROWS`.
        metric: what labels measured; None without labels.
        texts, held_out: how many texts were trained on, and how many were not.
        step, steps: after which update the file was made, of how many.
    """
    figures = {
        name: [_short(row.kl if row.kl is not None else row.cosine), _short(row.agreement), _short(row.metric)]
        for name, row in rows.items()
    }
    told = {"held_out": held_out, "rows": figures, "step": step, "steps": steps, "texts": texts}
    return told | ({"metric": metric} if metric else {})


def longest(texts: int, held_out: int, steps: int) -> dict[str, Any]:
    """A report as long as it may become."""
    rows = dict.fromkeys(ROWS, [_LONGEST] * 3)
    return {
        "held_out": held_out, "metric": "accuracy", "rows": rows, "step": steps, "steps": steps, "texts": texts
    }  # fmt: skip


def room(told: Mapping[str, Any]) -> int:
    """Bytes that a report takes in a file, about: JSON within JSON."""
    return len(json.dumps(json.dumps({"distilled": told}, separators=(",", ":"))))


def _short(value: float | None) -> float | None:
    """A figure in few digits; None where there is none, or none that a file can hold."""
    if value is None or not isfinite(value):
        return None
    return float(f"{value:.{_FIGURES}g}") if value >= 1e-3 else round(value, 6)
