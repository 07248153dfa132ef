"""Whether fixed pieces of work take more processor time than they did, in units that hold on any machine.

Each job runs in turn with a loop that never changes and takes about as long: sorting, multiplying and deflating of
fixed numbers, on one thread. What is kept and compared is the median of the pairs' ratios of processor time, so that a
faster or busier machine changes little. A job grew where its ratio is over 1.5 times the one in work_check.json.

    python -m benchmarks.work_check [--pairs 5] [--update]

Exits with 1 where a job grew; --update keeps what was measured instead.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import adaptzip
from benchmarks import page
from benchmarks.speed_runs import Sample, Spread, in_turn, ratios, timed
from benchmarks.speed_shop import FIXTURE
from benchmarks.speed_tasks import make_adapter

KEPT = Path(__file__).with_suffix(".json")
TOLERANCE = 1.5
SECONDS = 0.5
"""About how long a job and its loop run, so that the clock's steps do not count."""
_SIDE = 192


def calibration() -> int:
    """Work that no change of this project touches: some of it bound by arithmetic, some by branches and memory."""
    numbers = np.random.default_rng(0).standard_normal((_SIDE, _SIDE)).astype(np.float32)
    product = numbers
    for _ in range(4):
        product = np.tanh(product @ numbers)
    order = np.sort(numbers, axis=None)
    return len(zlib.compress(order.tobytes() + product.tobytes(), 6))


def jobs(folder: Path) -> dict[str, Callable[[], Any]]:
    """What is watched: each on a fixed input that is made here."""
    many, archive = folder / "many", folder / "lists.adz"
    make_adapter(str(many), modules=500, width=8, rank=4).work()
    adapter, small = adaptzip.read(FIXTURE), adaptzip.read(many)
    adaptzip.compress(adapter, archive, device="cpu", start="none")
    packed = adaptzip.compress(small, device="cpu", start="none")
    return {
        "decode a small adapter": lambda: adaptzip.reconstruct(adaptzip.open(archive)),
        "compress a small adapter": lambda: adaptzip.compress(adapter, device="cpu", start="none"),
        "foresee a small adapter": lambda: adaptzip.plan(
            adapter, methods=["svd"], budget="20x", device="cpu", start="none"
        ),
        "decode 500 modules": lambda: adaptzip.reconstruct(packed),
        "compress 500 modules": lambda: adaptzip.compress(small, device="cpu", start="none"),
    }


def measure(work: Callable[[], Any], pairs: int) -> Spread:
    """Processor time of some work over the calibration loop's."""
    work()
    calibration()
    one, loop = (timed(side)[0].cpu for side in (work, calibration))
    sides = {
        "work": partial(_repeated, work, _times(one)),
        "loop": partial(_repeated, calibration, _times(loop)),
    }
    found = in_turn(sides, pairs)
    return ratios(found["work"], found["loop"])[1]


def _times(seconds: float) -> int:
    return max(1, round(SECONDS / max(seconds, 1e-4)))


def _repeated(work: Callable[[], Any], times: int) -> Sample:
    """What one of several calls takes."""
    sample, _ = timed(partial(_repeat, work, times))
    return Sample(sample.wall / times, sample.cpu / times)


def _repeat(work: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        work()


def grown(found: Mapping[str, Spread], kept: Mapping[str, float]) -> list[str]:
    """The jobs that take more than they may."""
    return [name for name, now in found.items() if name in kept and now.median > TOLERANCE * kept[name]]


def render(found: Mapping[str, Spread], kept: Mapping[str, float]) -> str:
    worse = grown(found, kept)
    rows = [
        [
            name,
            f"{now.median:.3g} ({now.low:.3g} to {now.high:.3g})",
            f"{kept[name]:.3g}" if name in kept else "",
            f"{now.median / kept[name]:.2f}" if name in kept else "",
            "GREW" if name in worse else "",
        ]
        for name, now in found.items()
    ]
    return page.table(["job", "processor time / loop's", "kept", "now / kept", ""], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a job grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="how often a job and the loop run (default: 5)")
    parser.add_argument("--update", action="store_true", help=f"write {KEPT.name} instead of comparing with it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        found = {name: measure(work, options.pairs) for name, work in jobs(Path(folder)).items()}
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    print(render(found, kept))
    if options.update:
        KEPT.write_text(json.dumps({name: round(now.median, 4) for name, now in found.items()}, indent=2) + "\n")
        return 0
    return int(bool(grown(found, kept)))


if __name__ == "__main__":
    sys.exit(main())
