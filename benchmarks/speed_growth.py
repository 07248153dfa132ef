"""Rows 11 and 12 of the speed benchmark: how time grows with an adapter, and whether threads change bytes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression

from benchmarks.speed_lines import Line, Measured
from benchmarks.speed_runs import Side, Spread, seconds, spread, together
from benchmarks.speed_shop import Shop

THREADS = (1, 2, 3)
_TELLING = 1.5
"""How much longer than the smallest size another has to take, so that what it takes beyond it is no noise."""


@dataclass(frozen=True)
class Growth:
    """One thing that grows: its name, the sizes, and the shape of the adapter at a size.

    Attributes:
        slow: the sizes that a quick run leaves out.
    """

    name: str
    sizes: Sequence[int]
    slow: Sequence[int]
    bar: float | None

    def shape(self, size: int) -> tuple[int, int, int]:
        """Modules, width and rank."""
        return {"modules": (size, 8, 4), "width": (32, size, 16), "rank": (32, 1024, size)}[self.name]


GROWTHS = (
    Growth("modules", (100, 1_000, 10_000, 30_000, 100_000), (100_000,), 1.05),
    Growth("width", (1_024, 2_048, 4_096, 8_192, 16_384), (), 1.05),
    Growth("rank", (4, 8, 16, 32, 64), (), None),
)


def growth(shop: Shop) -> Measured:
    """Row 11: by which powers processor time grows with modules, width and rank."""
    lines = [line for kind in GROWTHS for task in ("compress", "decode") for line in _grown(shop, kind, task)]
    return lines, [
        "exponents are slopes of logarithms, by least squares, of what a size takes beyond the smallest over how much "
        "larger it is, so that fixed costs, which the smallest has too, do not count; sizes that take less than "
        f"{_TELLING:g} times as long as the smallest are left out; processor time, in process, warm."
    ]


def _grown(shop: Shop, kind: Growth, task: str) -> list[Line]:
    sizes = [size for size in kind.sizes if not (shop.quick and size in kind.slow)]
    child = together([_side(shop, kind, task, size) for size in sizes], shop.pairs)
    rounds = zip(*(child.later[str(size)] for size in sizes), strict=True)
    fitted = [exponent(sizes, [sample.cpu for sample in one]) for one in rounds]
    powers = [power for power in fitted if not math.isnan(power)] or [math.nan]
    name = f"{task}, exponent over {kind.name} ({sizes[0]:,} to {sizes[-1]:,})"
    told = [Line(f"{task}, {kind.name} {n:,}", *seconds(child.later[str(n)]), unit="s") for n in (sizes[0], sizes[-1])]
    return [Line(name, spread(powers), spread(powers), bar=kind.bar, judged="processor"), *told]


def _side(shop: Shop, kind: Growth, task: str, size: int) -> Side:
    adapter = shop.square(*kind.shape(size))
    if task == "decode":
        return Side(str(size), task, {"archive": str(shop.archived(adapter))})
    output = str(shop.memory / "grown.adz")
    return Side(str(size), task, {"source": str(adapter), "output": output, "max_error": 0.1})


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The power by which time beyond the smallest size's grows with what a size has more than the smallest.

    Times that are hardly longer than the smallest's are left out; nan where fewer than two are left.
    """
    least = _TELLING * times[0]
    more = [(size - sizes[0], time - times[0]) for size, time in zip(sizes, times, strict=True) if time > least]
    if len(more) < 2:
        return math.nan
    x, y = ([math.log(value) for value in column] for column in zip(*more, strict=True))
    return linear_regression(x, y).slope


def threads(shop: Shop) -> Measured:
    """Row 12: the bytes of every method that updates can be fitted to, on 1, 2 and 3 threads."""
    made = {count: _on_threads(shop.disk / f"threads-{count}", count) for count in THREADS}
    names = sorted(made[THREADS[0]])
    different = [name for name in names if len({files[name] for files in made.values()}) > 1]
    count = float(len(different))
    what = f"files that differ on {', '.join(map(str, THREADS))} threads, of {len(names)}"
    answer = f"equal bytes: {'yes' if not different else 'no, ' + ', '.join(different)} ({', '.join(names)})."
    return [Line(what, Spread(count, count, count), bar=0.0)], [answer]


def _on_threads(folder: Path, count: int) -> Mapping[str, bytes]:
    """What the tests compress with every method, on some threads in a process of its own."""
    folder.mkdir()
    limits = {"OMP_NUM_THREADS": str(count), "OPENBLAS_NUM_THREADS": str(count)}
    words = [sys.executable, "-m", "tests.methods.compress_on_threads", str(count), str(folder)]
    subprocess.run(words, check=True, env={**os.environ, **limits})
    return {path.stem: path.read_bytes() for path in folder.glob("*.adz")}
