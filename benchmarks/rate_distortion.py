"""How small the files are: against the Gaussian bound at three relative errors, and against int4 at int4's own error.

Every adapter is compressed into a file, the file is read back, and its error is measured on what came back. Bytes are
those of the whole file less the `extras` stream (heads, biases and embeddings, which are no part of the update):
header, names, configuration, tables and coded modules all count. int4's bytes are its codes and scales alone.

The bars: at each error at most 1.15 times the bound in the median and 1.30 times at worst; never larger than int4 and
at most half of it in the median. Exits 1 when one is missed.

    python -m benchmarks.rate_distortion [FOLDER ...] [--json] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.comparing import diff
from adaptzip.reports.bounds import least_bytes
from benchmarks import page, storage
from benchmarks.bound import ERRORS
from benchmarks.real_adapters import RealAdapter, add_folders, find

_KNOWN = ("start known", "ratio")
MEDIAN_BAR, WORST_BAR = 1.15, 1.30
INT4_MEDIAN_BAR, INT4_WORST_BAR = 0.5, 1.0


@dataclass(frozen=True)
class Point:
    """One file.

    Attributes:
        asked: the relative error asked for.
        error: the relative error measured on the file.
        bytes: of the file without its extras.
    """

    asked: float
    error: float
    bytes: int


@dataclass(frozen=True)
class BoundRow:
    """A file beside the bound at the error it reached.

    Attributes:
        known: the bound for a reader who knows where A began; None where nobody does.
    """

    adapter: str
    asked: float
    error: float
    bytes: int
    bound: float
    ratio: float
    known: float | None = None


@dataclass(frozen=True)
class Int4Row:
    """A file beside int4 at the error that int4 makes; of int4's variants, the one that comes off better."""

    adapter: str
    variant: str
    int4_error: float
    int4_bytes: int
    error: float
    bytes: int
    share: float


@dataclass(frozen=True)
class Summary:
    """Median and worst of a column, and whether both meet their bars."""

    name: str
    median: float
    worst: float
    met: bool


def compress(real: RealAdapter, error: float) -> Point:
    """Compress one adapter into a file and measure what the file holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.adz"
        compressed = adaptzip.compress(real.path, path, max_error=error, device="cpu")
        size = path.stat().st_size - writer.sizes(compressed).get("extras", 0)
        reached = diff(real.adapter, adaptzip.reconstruct(path)).relative_error
    assert reached is not None
    return Point(error, reached, size)


def against_bound(real: RealAdapter, error: float) -> BoundRow:
    point = compress(real, error)
    bound = least_bytes(real.parts.unknown, point.error)
    known = least_bytes(real.parts, point.error) if np.any(real.parts.frame) else None
    return BoundRow(real.name, error, point.error, point.bytes, bound, point.bytes / bound, known)


def against_int4(real: RealAdapter) -> Int4Row:
    rows = []
    for variant in ("symmetric", "asymmetric"):
        int4 = storage.integers(real.adapter, 4, symmetric=variant == "symmetric")
        point = compress(real, int4.relative_error)
        share = point.bytes / int4.bytes
        rows.append(Int4Row(real.name, variant, int4.relative_error, int(int4.bytes), point.error, point.bytes, share))
    return max(rows, key=lambda row: row.share)


def summarise(bounds: Sequence[BoundRow], int4: Sequence[Int4Row]) -> list[Summary]:
    found = []
    for error in sorted({row.asked for row in bounds}):
        ratios = [row.ratio for row in bounds if row.asked == error]
        found.append(_summary(f"error {error:g} / bound", ratios, MEDIAN_BAR, WORST_BAR))
    found.append(_summary("all errors / bound", [row.ratio for row in bounds], MEDIAN_BAR, WORST_BAR))
    found.append(_summary("int4's error / int4", [row.share for row in int4], INT4_MEDIAN_BAR, INT4_WORST_BAR))
    return found


def _summary(name: str, values: Sequence[float], median_bar: float, worst_bar: float) -> Summary:
    return Summary(name, median(values), max(values), median(values) <= median_bar and max(values) <= worst_bar)


def render(bounds: Sequence[BoundRow], int4: Sequence[Int4Row], summaries: Sequence[Summary]) -> str:
    by_bound = [
        [row.adapter, f"{row.error:.4f}", f"{row.bytes:,}", f"{row.bound:,.0f}", f"{row.ratio:.3f}", *_known(row)]
        for row in bounds
    ]
    by_int4 = [
        [row.adapter, row.variant, f"{row.int4_error:.4f}", f"{row.int4_bytes:,}", f"{row.bytes:,}", f"{row.share:.3f}"]
        for row in int4
    ]
    bars = [[s.name, f"{s.median:.3f}", f"{s.worst:.3f}", *_bars(s), "yes" if s.met else "NO"] for s in summaries]
    return "\n".join(
        [
            page.table(["bytes against", "median", "worst", "median bar", "worst bar", "met"], bars),
            page.table(["adapter", "relative error", "bytes", "bound", "ratio", *_KNOWN], by_bound),
            page.table(["adapter", "int4 groups", "its error", "its bytes", "our bytes", "share"], by_int4),
        ]
    )


def _known(row: BoundRow) -> tuple[str, str]:
    return ("-", "-") if row.known is None else (f"{row.known:,.0f}", f"{row.bytes / row.known:.3f}")


def _bars(summary: Summary) -> tuple[str, str]:
    if summary.name.endswith("int4"):
        return f"{INT4_MEDIAN_BAR:.2f}", f"{INT4_WORST_BAR:.2f}"
    return f"{MEDIAN_BAR:.2f}", f"{WORST_BAR:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    adapters = find(options.folders)
    if not adapters:
        print("error: no readable adapter with a non-zero update was found", file=sys.stderr)
        return 2
    bounds = [against_bound(real, error) for real in adapters for error in ERRORS]
    int4 = [against_int4(real) for real in adapters]
    summaries = summarise(bounds, int4)
    if options.json:
        parts: dict[str, Sequence[BoundRow | Int4Row | Summary]] = {"bound": bounds, "int4": int4, "summary": summaries}
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in parts.items()}, indent=2))
    else:
        print(render(bounds, int4, summaries))
    if options.write:
        page.put("rate_distortion", render(bounds, int4, summaries))
    return 0 if all(summary.met for summary in summaries) else 1


if __name__ == "__main__":
    sys.exit(main())
