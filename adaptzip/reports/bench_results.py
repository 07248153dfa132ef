"""Files of several methods and sizes beside each other, as `bench` measures them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adaptzip.core import words
from adaptzip.core.budget import Counted
from adaptzip.core.showing import Shown
from adaptzip.reports.yardsticks import Yardstick


@dataclass(frozen=True)
class Point:
    """One file.

    Attributes:
        method: what made it.
        budget: what was asked for, in `unit`.
        bytes: of the whole file.
        parameters: stored numbers, extras not counted.
        relative_error: |dW - dW'| / |dW|, plain.
        weighted_error: the same as the base model's activations see it; None without calibration.
        options: the method's options, settled.
        bound: bytes that the Gaussian bound allows at this error, the extras' bytes included; None for no error.
        known_bound: the same for a reader who knows where A began; None where nobody does, in a basis that adapters
            share, and for no error.
    """

    method: str
    budget: int
    bytes: int
    parameters: int
    relative_error: float
    weighted_error: float | None
    options: Mapping[str, Any]
    bound: int | None = None
    known_bound: int | None = None
    unit: Counted = "bytes"


@dataclass(frozen=True)
class Missed:
    """A method that made nothing of one size, or with budget None of none, and why in one line."""

    method: str
    budget: int | None
    reason: str
    unit: Counted = "bytes"


@dataclass(frozen=True, repr=False)
class Bench(Shown):
    """Error against bytes.

    Attributes:
        points: files by method, each from large to small.
        unit: what the sizes that were asked for count.
        missed: what could not be made.
        bound: (relative error, bytes) of the Gaussian bound, the extras' bytes included.
        known_bound: the same for a reader who knows where A began; empty where nobody does.
        yardsticks: simple ways to store the factors, the extras' bytes included.
        source_bytes: of the source's weight file.
        extras_bytes: of the packed extras, which are part of every size here.
    """

    points: tuple[Point, ...]
    missed: tuple[Missed, ...]
    bound: tuple[tuple[float, int], ...]
    yardsticks: tuple[Yardstick, ...]
    source_bytes: int
    extras_bytes: int
    known_bound: tuple[tuple[float, int], ...] = ()
    unit: Counted = "bytes"

    def _told(self) -> Iterator[str]:
        yield words.count(len(self.points), "file")
        yield words.count(len({point.method for point in self.points}), "method")
        yield f"of {words.size(self.source_bytes)}"
        yield f"{len(self.missed)} missed" if self.missed else ""

    def _rows(self) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
        rows = (
            (
                p.method,
                words.size(p.bytes),
                words.ratio(self.source_bytes, p.bytes),
                f"{p.parameters:,}",
                words.number(p.relative_error),
            )
            for p in self.points
        )
        return ("method", "size", "ratio", "parameters", "error"), rows

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of the files, in plain numbers."""
        weighted = any(point.weighted_error is not None for point in self.points)
        head = ["method", "bytes", "ratio", "parameters", "error", *(["weighted error"] if weighted else []), "bound"]
        rows = [
            [
                p.method,
                str(p.bytes),
                f"{self.source_bytes / p.bytes:.4g}",
                str(p.parameters),
                f"{p.relative_error:.4g}",
                *(["" if p.weighted_error is None else f"{p.weighted_error:.4g}"] if weighted else []),
                "" if p.bound is None else str(p.bound),
            ]
            for p in self.points
        ]
        return head, rows

    def as_dict(self) -> dict[str, Any]:
        """The bench as JSON values."""
        return {
            "source_bytes": self.source_bytes,
            "extras_bytes": self.extras_bytes,
            "unit": self.unit,
            "points": [{**asdict(point), "options": dict(point.options)} for point in self.points],
            "missed": [asdict(row) for row in self.missed],
            "bound": _as_rows(self.bound),
            "known_bound": _as_rows(self.known_bound),
            "yardsticks": [asdict(row) for row in self.yardsticks],
        }


def _as_rows(bound: Sequence[tuple[float, int]]) -> list[dict[str, Any]]:
    return [{"relative_error": error, "bytes": size} for error, size in bound]
