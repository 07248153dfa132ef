"""What training said of a file, as bytes of its head (formats/adz-1.md, section 2.2)."""

from __future__ import annotations

from adaptzip.adz.container.numbers import Cursor, decimal, leb128
from adaptzip.core.training_report import Figures, TrainingReport
from adaptzip.errors import FormatError, UsageError

_METRICS = (None, "accuracy", "loss", "F1", "squared error")


def write_report(report: TrainingReport) -> bytes:
    """Four counts, the metric's number, and twelve figures.

    Raises:
        UsageError: if a file cannot hold them.
    """
    if report.metric not in _METRICS:
        raise UsageError(f"a file cannot hold the metric {report.metric!r}, expected one of {_METRICS}")
    counts = (report.texts, report.held_out, report.step, report.steps, _METRICS.index(report.metric))
    return leb128(counts) + b"".join(map(_figure, (f for row in report.rows.values() for f in row)))


def read_report(cursor: Cursor) -> TrainingReport:
    """Inverse of `write_report`.

    Raises:
        FormatError: if it is malformed.
    """
    texts, held_out, step, steps = cursor.wholes(4)
    metric = cursor.whole()
    if metric >= len(_METRICS):
        raise FormatError(f"metadata: the report's metric is number {metric}, expected one below {len(_METRICS)}")
    rows = [_row(cursor) for _ in range(4)]
    return TrainingReport(texts, held_out, step, steps, _METRICS[metric], *rows)


def _row(cursor: Cursor) -> Figures:
    return cursor.optional(), cursor.optional(), cursor.optional()


def _figure(figure: float | None) -> bytes:
    return b"\0" if figure is None else decimal(figure, spare=1)
