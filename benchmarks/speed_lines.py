"""What the speed benchmark found: lines with their bars, rows of lines, and the tables made of them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks import page
from benchmarks.speed_runs import Spread

OTHERS, STOLEN = 0.05, 0.01
"""Shares of the machine's processors beyond which it was busy with other things than a row."""
_STEAL = 7
_IDLE = (3, 4)
_COUNTED = 8
Judged = Literal["wall", "processor", "both"]


@dataclass(frozen=True)
class Line:
    """One measured figure.

    Attributes:
        wall, cpu: medians and quartiles of what the unit says, on the clock and in processor time.
        unit: empty for a ratio.
        bar, moonshot: what has to be reached, and what would be splendid; None where nothing is promised.
        judged: which of both the bar is for.
        least: whether more is better.
    """

    what: str
    wall: Spread
    cpu: Spread | None = None
    unit: str = ""
    bar: float | None = None
    moonshot: float | None = None
    judged: Judged = "wall"
    least: bool = False

    @property
    def met(self) -> bool:
        return self.bar is None or self.reaches(self.bar)

    def reaches(self, limit: float) -> bool:
        """Whether the medians that are judged keep to a limit."""
        sides = {"wall": (self.wall,), "processor": (self.cpu,), "both": (self.wall, self.cpu)}[self.judged]
        values = [side.median for side in sides if side is not None]
        return min(values) >= limit if self.least else max(values) <= limit


class Machine(NamedTuple):
    """How the machine was while a row was measured.

    Attributes:
        before, after: load averages of the last minute.
        others: share of all processors' time that went to other processes; None where the system does not tell.
        stolen: share that a virtual machine did not get.
        seconds: how long the row took.
    """

    before: float
    after: float
    others: float | None
    stolen: float | None
    seconds: float

    @property
    def busy(self) -> bool:
        return (self.others or 0) > OTHERS or (self.stolen or 0) > STOLEN


@dataclass(frozen=True)
class Finding:
    """A row of the benchmark: its key, its title, its lines, what else is said, and how the machine was."""

    key: str
    title: str
    lines: Sequence[Line]
    notes: Sequence[str]
    machine: Machine

    @classmethod
    def read(cls, lines: Sequence[Mapping[str, Any]], machine: Sequence[Any], **rest: Any) -> Finding:
        """What `asdict` made of one, again."""
        return cls(lines=[_line(**line) for line in lines], machine=Machine(*machine), **rest)

    @property
    def met(self) -> bool:
        return all(line.met for line in self.lines)


def _line(wall: Sequence[float], cpu: Sequence[float] | None, **rest: Any) -> Line:
    return Line(wall=Spread(*wall), cpu=None if cpu is None else Spread(*cpu), **rest)


Measured = tuple[Sequence[Line], Sequence[str]]
"""Lines and notes."""


def watched(key: str, title: str, measure: Callable[[], Measured]) -> Finding:
    """Measure a row, and note how busy the machine was with other things."""
    load, ticks, own, start = os.getloadavg()[0], _ticks(), _own(), time.perf_counter()
    lines, notes = measure()
    passed, spent, seconds = _ticks(), _own() - own, time.perf_counter() - start
    others, stolen = _shares(ticks, passed, spent)
    return Finding(key, title, lines, notes, Machine(load, os.getloadavg()[0], others, stolen, seconds))


def _ticks() -> list[int]:
    """Time of all processors by what they did, where the system tells it."""
    path = Path("/proc/stat")
    return [int(word) for word in path.read_text().split()[1 : 1 + _COUNTED]] if path.exists() else []


def _own() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _shares(before: Sequence[int], after: Sequence[int], spent: float) -> tuple[float | None, float | None]:
    """The shares of all processors' time that others had, and that was stolen."""
    passed = [b - a for a, b in zip(before, after, strict=True)]
    if not sum(passed):
        return None, None
    own = spent * os.sysconf("SC_CLK_TCK")
    stolen = passed[_STEAL]
    others = sum(passed) - stolen - own - sum(passed[i] for i in _IDLE)
    return max(others, 0.0) / sum(passed), stolen / sum(passed)


def render(found: Sequence[Finding]) -> str:
    """The tables: bars, what is told beside them, and the machine."""
    bars = [_bar_cells(row, line) for row in found for line in row.lines if line.bar is not None]
    told = [_cells(row, line) for row in found for line in row.lines if line.bar is None]
    notes = [f"- Row {row.key.partition(',')[0]}: {note}\n" for row in found for note in row.notes]
    head = ["row", "median (quartiles)", "in processor time"]
    parts = [page.table([*head, "bar", "moonshot", ""], bars)] if bars else []
    parts += [page.table(["told beside", *head[1:]], told)] if told else []
    parts += ["".join(notes)] if notes else []
    return "\n".join([*parts, page.table(_MACHINE, [_machine_cells(row) for row in found])])


_MACHINE = ["machine", "load before", "load after", "others' processor time", "stolen", "row took", ""]


def _cells(row: Finding, line: Line) -> list[str]:
    mark = ", machine BUSY" if row.machine.busy else ""
    cpu = "" if line.cpu is None else _spread(line.cpu, line.unit)
    return [f"{row.key.partition(',')[0]}. {line.what}{mark}", _spread(line.wall, line.unit), cpu]


def _bar_cells(row: Finding, line: Line) -> list[str]:
    sign = "at least " if line.least else ""
    limits = ["" if limit is None else f"{sign}{limit:g}" for limit in (line.bar, line.moonshot)]
    return [*_cells(row, line), *limits, _verdict(line)]


def _verdict(line: Line) -> str:
    if not line.met:
        return "NOT met"
    return "met, the moonshot too" if line.moonshot is not None and line.reaches(line.moonshot) else "met"


def _spread(spread: Spread, unit: str) -> str:
    low, middle, high = (_number(value) for value in spread)
    return f"{middle} {unit}".rstrip() + (f" ({low} to {high})" if low != high else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine_cells(row: Finding) -> list[str]:
    shares = ["" if share is None else f"{share:.0%}" for share in (row.machine.others, row.machine.stolen)]
    load = [f"{value:.1f}" for value in row.machine[:2]]
    number, _, rest = row.key.partition(", ")
    return [
        f"{number}. {row.title}, {rest}",
        *load,
        *shares,
        f"{row.machine.seconds:,.0f} s",
        "BUSY" * row.machine.busy,
    ]
