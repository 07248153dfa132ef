"""Rows of a fleet as a line, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import page
from benchmarks.fleet.methods import PLAIN
from benchmarks.fleet.rows import Row, Told
from benchmarks.gain_picture import Point, Style, write

HEAD = [
    "method",
    "setting",
    "adapters",
    "bytes",
    "of these shared",
    "error: median",
    "r.m.s.",
    "worst",
    "gain: median",
    "10th percentile",
    "left out: error",
    "gain",
    "10th percentile",
    "`svd` in these bytes: gain",
    "10th percentile",
    "left out",
]
STYLES = {
    PLAIN: Style("#0969da", "o"),
    "mean alone": Style("#8250df", "D"),
    "shared basis": Style("#1a7f37", "s"),
    "shared bank": Style("#bc4c00", "P"),
    "vlora-dev": Style("#bf8700", "^", "--"),
    "lorashare": Style("#cf222e", "v", "--"),
}


def table(rows: Sequence[Row]) -> str:
    """A line for each method and setting, and what plain files do in the same bytes."""
    beside = {row.beside: row for row in rows if row.beside}
    return page.table(HEAD, [_cells(row, beside.get(f"{row.method}, {row.setting}")) for row in rows if not row.beside])


def _cells(row: Row, plain: Row | None) -> list[str]:
    held = str(row.held) if row.held == row.of else f"{row.held} of {row.of}"
    one = row.members
    return [
        row.method,
        row.setting,
        held,
        f"{row.bytes:,}",
        f"{row.shared:,}",
        *(f"{error:.2f}" for error in (one.median, one.rms, one.worst)),
        *_gains(one),
        f"{row.left_out.median:.2f}" if row.left_out else "-",
        *_gains(row.left_out),
        *_gains(plain.members if plain else None),
        _gains(plain.left_out if plain else None)[0],
    ]


def _gains(told: Told | None) -> list[str]:
    values = (None, None) if told is None else (told.gain, told.low)
    return ["-" if value is None else f"{100 * value:.0f} %" for value in values]


def line(row: Row) -> str:
    """For who waits."""
    return f"{row.kind}: {' | '.join(_cells(row, None)[:13])}"


def picture(kind: str, rows: Sequence[Row]) -> None:
    """Median gain of the members over all bytes, a line for each method; a basis's and a peer's are its best. There is
    none of a fleet without gains."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        if row.members.gain is not None and not row.beside:
            lines.setdefault(row.method, []).append((row.bytes, row.members.gain))
    if lines:
        write(page.DOCS / "images" / f"fleet-{kind}", {name: best(points) for name, points in lines.items()}, STYLES)


def best(points: Sequence[Point]) -> list[Point]:
    """Those that no smaller one is as good as."""
    kept: list[Point] = []
    for size, gain in sorted(points):
        if not kept or gain > kept[-1][1]:
            kept.append((size, gain))
    return kept
