"""An evaluation as `adaptzip eval --json` prints it, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptzip.core.training_report import IN_PER_CENT, ROWS_IN_WORDS, TrainingReport
from adaptzip.core.words import number, share, size
from adaptzip.errors import UsageError
from adaptzip.files.json_values import json_values
from adaptzip.files.regular import read_regular

_DISTANCES = {"kl": "KL from the teacher", "cosine": "1 − cosine", "squared_error": "squared error"}


@dataclass(frozen=True)
class EvaluationTable:
    """Head and rows; the last cell of a row is the share of the gain that is kept, or None."""

    head: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], float | None], ...]
    told: str


def evaluation_table(source: str | Path | Mapping[str, Any]) -> EvaluationTable:
    """The table of an evaluation.

    Raises:
        UsageError: if it is none.
    """
    found = source if isinstance(source, Mapping) else _read(Path(source))
    try:
        rows, metric = list(found["rows"]), found["metric"]
        distance = next((key for key in _DISTANCES if any(row.get(key) is not None for row in rows)), None)
        head = ["", "size", *([metric] if metric else []), *([_DISTANCES[distance]] if distance else [])]
        told = tuple((_cells(row, metric, distance), _gain(row)) for row in rows)
        return EvaluationTable(tuple(head), told, f"{found['samples']:,} samples of a {found['kind']} model")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        named = "the evaluation" if isinstance(source, Mapping) else str(source)
        raise UsageError(
            f"{named}: is not what an evaluation says of itself", hint="write it with `adaptzip eval ... --json > FILE`"
        ) from error


def training_table(told: TrainingReport) -> EvaluationTable:
    """What training measured on the texts that it did not see."""
    rows = []
    for name, (distance, _, metric) in told.rows.items():
        cells = [ROWS_IN_WORDS[name], *([_metric(told.metric, metric)] if told.metric else []), _number(distance)]
        rows.append((tuple(cells), told.gain(name)))
    head = ["", *([told.metric] if told.metric else []), "distance from the source"]
    return EvaluationTable(tuple(head), tuple(rows), f"{told.held_out:,} texts that were kept from training")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json_values(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        told = error.strerror if isinstance(error, OSError) else "is no JSON"
        raise UsageError(f"{path}: {told}", hint="write it with `adaptzip eval ... --json > FILE`") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: is no object of JSON", hint="write it with `adaptzip eval ... --json > FILE`")
    return found


def _cells(row: Mapping[str, Any], metric: str | None, distance: str | None) -> tuple[str, ...]:
    held = row.get("bytes")
    cells = [str(row["name"]), "" if held is None else size(int(held))]
    if metric:
        cells.append(_metric(metric, row["metric"]))
    if distance:
        cells.append(_number(row[distance]))
    return tuple(cells)


def _gain(row: Mapping[str, Any]) -> float | None:
    gain = row["gain"]
    return None if gain is None else float(gain)


def _metric(name: str | None, value: float | None) -> str:
    if value is None:
        return ""
    return share(value, 1) if name in IN_PER_CENT else number(value)


def _number(value: float | None) -> str:
    return "" if value is None else number(value)
