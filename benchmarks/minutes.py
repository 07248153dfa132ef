"""Gain over bytes and minutes: the fixture `lists-minilm-r16` distilled within stated times, at several sizes.

Every file is made as `distill --minutes` makes it, the fit and all scores within the time; bytes are those of the whole
file without the head. Runs that were made before are taken from --results, so that the table can grow.

    python -m benchmarks.minutes [MINUTES ...] [--material FOLDER] [--results FILE] [--write]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks import gain_picture, page, results
from benchmarks.distillation import lists, measure
from benchmarks.gain_picture import Point, Style

MINUTES = ("3", "6", "12")
STYLES = {"3": Style("#8250df", "^"), "6": Style("#2da44e", "s"), "12": Style("#2f81f7", "o")}
PICTURE = page.DOCS / "images" / "minutes"


@dataclass(frozen=True)
class Row:
    """A size and a time, and what came of them.

    Attributes:
        allowed: most bytes.
        asked: minutes that were stated.
        minutes: those that it took.
    """

    allowed: int
    asked: str
    bytes: int
    half_bytes: int
    gain: float
    kl: float
    steps: int
    minutes: float


def table(rows: Sequence[Row]) -> str:
    """A row for each size, a column for each time."""
    asked = [minutes for minutes in MINUTES if any(row.asked == minutes for row in rows)]
    lines = []
    for allowed in sorted({row.allowed for row in rows}, reverse=True):
        found = {row.asked: row for row in rows if row.allowed == allowed}
        first = next(iter(found.values()))
        cells = [f"{100 * r.gain:.1f} % ({r.steps:,})" if (r := found.get(m)) else "-" for m in asked]
        lines.append([f"{allowed:,}", f"1/{first.half_bytes / allowed:.0f}", *cells])
    return page.table(["bytes allowed", "share of fp16", *(f"{m} minutes (steps)" for m in asked)], lines)


def picture(rows: Sequence[Row]) -> tuple[dict[str, list[Point]], dict[str, Style]]:
    """A line for each time, and their styles, by label."""
    labels = {minutes: f"{minutes} minutes" for minutes in MINUTES if any(row.asked == minutes for row in rows)}
    lines = {label: [(row.bytes, row.gain) for row in rows if row.asked == asked] for asked, label in labels.items()}
    return lines, {label: STYLES[asked] for asked, label in labels.items()}


def main() -> None:
    """Make what is asked for, print the table, and write it where that is asked for."""
    arguments = results.parser(__doc__, "minutes", MINUTES).parse_args()
    case = lists(arguments.material)
    # Of several methods at a size the first, which is the reference.
    runs = {run.bytes: run for run in reversed(case.runs)}
    asked = [(run.bytes, minutes) for minutes in arguments.chosen for run in case.runs]

    def make(one: tuple[int, str]) -> Row:
        size, minutes = one
        made = measure("lists", case, replace(runs[size], settings={"minutes": float(minutes)}))
        return Row(size, minutes, made.bytes, made.half_bytes, made.gain, made.kl, made.steps, made.minutes)

    rows = list(results.grown(arguments.results, Row, lambda row: (row.allowed, row.asked), asked, make).values())
    print(table(rows), flush=True)
    for row in rows:
        print(f"{row.allowed} bytes, {row.asked} minutes: took {row.minutes:.2f}, KL {row.kl:.3f}")
    if arguments.write:
        page.put("minutes", table(rows))
        gain_picture.write(PICTURE, *picture(rows))


if __name__ == "__main__":
    main()
