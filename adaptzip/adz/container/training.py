"""`distilled` in the metadata: what training said of a file (formats/adz-1.md, section 2.1)."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, cast

from adaptzip.core.compressed import Figures, TrainingReport
from adaptzip.errors import FormatError

_COUNTS = 4
_ROWS = 4
_METRICS = (None, "accuracy", "loss", "F1", "squared error")
_FIGURES = 3
_MOST = 2**63


def write_report(report: TrainingReport | None) -> list[Any] | None:
    """The list that stands in the metadata."""
    return None if report is None else list(astuple(report))


def read_report(item: Any) -> TrainingReport | None:
    """Inverse of `write_report`, for an item of parsed JSON.

    Raises:
        FormatError: if it is neither null nor such a list.
    """
    if item is None:
        return None
    if isinstance(item, list) and len(item) == _COUNTS + 1 + _ROWS:
        counts, metric, rows = item[:_COUNTS], item[_COUNTS], item[_COUNTS + 1 :]
        if all(map(_is_count, counts)) and metric in _METRICS and all(map(_is_row, rows)):
            texts, held_out, step, steps = counts
            none, teacher, fitted, distilled = (cast("Figures", tuple(row)) for row in rows)
            return TrainingReport(texts, held_out, step, steps, metric, none, teacher, fitted, distilled)
    raise FormatError(f"metadata: 'distilled' is malformed: {repr(item)[:100]}")


def _is_count(item: Any) -> bool:
    return type(item) is int and 0 <= item < _MOST


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == _FIGURES and all(map(_is_figure, row))


def _is_figure(item: Any) -> bool:
    return item is None or (type(item) in (int, float) and 0 <= item < _MOST)
