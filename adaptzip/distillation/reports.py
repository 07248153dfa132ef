"""What a file says of its training."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from adaptzip.adz.container.training import write_report
from adaptzip.core.training_report import Figures, TrainingReport
from adaptzip.reports.scores import Score

_DIGITS = 4
_GROWTH = 1 + 8
"""A byte of the head's length, and what aligns the file's header."""
_LONGEST = 0.9999
"""A figure that takes as much room as any."""
_MOST = 2.0**63
"""A file holds smaller figures alone."""


def report(
    rows: Mapping[str, Score], metric: str | None, *, texts: int, held_out: int, step: int, steps: int
) -> TrainingReport:
    """Scores on the texts held out, in few digits, and how long training was.

    Args:
        rows: the scores by the names of the report's rows.
    """
    figures = {name: _figures(row) for name, row in rows.items()}
    return TrainingReport(texts, held_out, step, steps, metric, **figures)


def longest(texts: int, held_out: int, steps: int) -> TrainingReport:
    """A report as long as it may become, whatever is measured."""
    row = (_LONGEST,) * 3
    return TrainingReport(texts, held_out, steps, steps, "accuracy", row, row, row, row)


def room(told: TrainingReport) -> int:
    """Bytes that a report takes in a file: its own, and those by which the lengths that are told may grow."""
    return len(write_report(told)) + _GROWTH


def _figures(row: Score) -> Figures:
    return _short(row.distance), _short(row.agreement), _short(row.metric)


def _short(value: float | None) -> float | None:
    """A figure in few digits; None where there is none, or none that a file can hold."""
    if value is None or not isfinite(value) or value >= _MOST:
        return None
    return float(f"{value:.{_DIGITS}g}") if value >= 1e-3 else max(0.0, round(value, 6))
