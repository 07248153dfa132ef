"""The tables of docs/benchmarks.md: medians over the adapters, and bold where a peer wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

from benchmarks import page
from benchmarks.peers import gains, ours, sets
from benchmarks.peers.contenders import Contender, contenders
from benchmarks.peers.packages import PACKAGES
from benchmarks.peers.rates import Point, bytes_at, delta_rate, error_at
from benchmarks.peers.rows import SIZE, Run

LEVELS = (0.1, 0.2, 0.316, 0.5)
"""Of `ours.ERRORS`, those that the tables show."""


def tables(run: Run, adapters: Sequence[str]) -> dict[str, str]:
    """The tables of some adapters, by their places in the page."""
    known = {row.peer for row in run.rows if row.of in adapters}
    measured = [one for one in contenders(run.environments) if one.name in known]
    curves = [one for one in measured if one.curve]
    return {
        "peers": f"Adapters: {', '.join(adapters)} ({len(adapters)}).\n\n"
        + page.table(["package", "version", "what it is", "what is counted"], _packages()),
        "peers-storages": page.table(
            ["storage", "float16 / bytes", "relative error", "bytes", "least", "it wins"],
            [_single(run, one, adapters) for one in measured if not one.curve],
        ),
        "peers-curves": page.table(
            ["coder", *(f"bytes at {level:g}" for level in LEVELS), "delta rate", "over errors", "it wins", "measured"],
            [_curve(run, one, adapters) for one in curves],
        ),
        "peers-errors": page.table(
            ["error in the bytes of", *(f"adaptzip at {level:g}" for level in LEVELS)],
            [_errors(run, one, adapters) for one in curves],
        ),
        "peers-sets": page.table(
            ["adapters", "peer", "setting", "error", "its bytes", "our bytes", "bytes"], list(_sets(run, adapters))
        ),
        "peers-gains": gains.table(gains.recorded()),
    }


def _packages() -> list[list[str]]:
    return [[one.name, one.version, one.what, one.counted] for one in PACKAGES]


def _single(run: Run, one: Contender, adapters: Sequence[str]) -> list[str]:
    """A storage of one error: the ratio of its bytes to those of our file at that error."""
    ratios, sizes, errors = [], [], []
    for name in adapters:
        for point in run.of(name, one.name):
            if point.error < 1:
                (half,) = run.of(name, SIZE)
                mine = {found.setting: found.bytes for found in run.of(name, ours.NAME)}
                ratios.append(point.bytes / mine[ours.setting(point.error)])
                sizes.append(half.bytes / point.bytes)
                errors.append(point.error)
    return [
        one.name,
        f"{median(sizes):.2f}",
        f"{median(errors):.2g}",
        times(median(ratios)),
        times(min(ratios)),
        wins(sum(ratio < 1 for ratio in ratios), len(ratios)),
    ]


def _curve(run: Run, one: Contender, adapters: Sequence[str]) -> list[str]:
    """A coder with a parameter: at our errors, and between the curves."""
    measured = [(run.of(name, one.name), run.of(name, ours.NAME)) for name in adapters if run.of(name, one.name)]
    deltas = [delta for theirs, mine in measured if (delta := delta_rate(ours.curve(mine), theirs))]
    ratios = []
    for level in LEVELS:
        files = [(theirs, _file(mine, level)) for theirs, mine in measured]
        sizes = [(bytes_at(theirs, file.error), file.bytes) for theirs, file in files]
        ratios.append([size / own for size, own in sizes if size])
    return [
        one.name,
        *(_median(found, len(measured), times) for found in ratios),
        percent(median(delta.rate for delta in deltas)) if deltas else "-",
        f"{median(d.low for d in deltas):.2g} to {median(d.high for d in deltas):.2g}" if deltas else "-",
        wins(sum(delta.rate < 0 for delta in deltas), len(deltas)),
        str(len(measured)),
    ]


def _errors(run: Run, one: Contender, adapters: Sequence[str]) -> list[str]:
    """A coder with a parameter: its errors in our bytes."""
    cells = []
    for level in LEVELS:
        files = [(run.of(name, one.name), _file(run.of(name, ours.NAME), level)) for name in adapters]
        files = [(theirs, file) for theirs, file in files if theirs]
        found = [error for theirs, file in files if (error := error_at(theirs, file.bytes))]
        cells.append(_median(found, len(files), partial(_error, level)))
    return [one.name, *cells]


def _file(mine: Sequence[Point], level: float) -> Point:
    return next(point for point in mine if point.setting == ours.setting(level))


def _sets(run: Run, adapters: Sequence[str]) -> Iterator[list[str]]:
    for row in run.rows:
        if row.ours is not None and set(row.of.split(sets.AND)) <= set(adapters):
            ratio = times(row.bytes / row.ours)
            yield [row.of, row.peer, row.setting, f"{row.error:.2g}", f"{row.bytes:,.0f}", f"{row.ours:,}", ratio]


def times(ratio: float) -> str:
    """A peer's bytes over ours, bold where the peer's are fewer."""
    return _less(ratio, 1, f"{ratio:.2f}")


def percent(rate: float) -> str:
    return _less(rate, 0, f"{100 * rate:+.0f} %")


def _error(level: float, error: float) -> str:
    return _less(error, level, f"{error:.2f}")


def _less(value: float, than: float, text: str) -> str:
    return f"**{text}**" if value < than else text


def wins(count: int, of: int) -> str:
    """On how many adapters a peer's bytes are fewer, of those on which they can be compared."""
    if not of:
        return "-"
    return f"**{count} of {of}**" if count else f"0 of {of}"


def _median(values: Sequence[float], of: int, show: Callable[[float], str]) -> str:
    """With how many adapters it is of, where the curves of some do not reach so far."""
    if not values:
        return "-"
    return show(median(values)) + (f" ({len(values)})" if len(values) < of else "")
