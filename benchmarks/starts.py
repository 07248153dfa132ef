"""What knowing where an adapter's A began saves: files with `--start none` and `auto` at four relative errors.

Both ways alternate, each in its turn as often as `--rounds` says; of each one's processor times the least counts: of
the function in this process, and of the command as a process of its own. Bounds are those of `adaptzip.reports.bounds`
at the error that the file with the start reached.

    python -m benchmarks.starts [ADAPTER ...] [--rounds 3] [--json] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.compressed import Compressed
from adaptzip.core.workers import on_one_core
from adaptzip.reports.bounds import least_bytes
from benchmarks import page
from benchmarks.real_adapters import MATERIAL, RealAdapter, find

ERRORS = (0.05, 0.1, 0.2, 0.316)
FIXTURES = Path(__file__).parent.parent / "fixtures"
ADAPTERS = (
    FIXTURES / "lists-minilm-r16",
    FIXTURES / "langid-minilm-r16",
    MATERIAL / "minilm-trec-r8",
    MATERIAL / "roberta-agnews-aguleon",
    MATERIAL / "smollm2-trec-r8",
)
_HEAD = (
    "adapter", "error", "modules, none", "modules, start", "ratio", "file, none", "file, start", "bound",
    "start known", "modules / bound", "modules / start known", "time, function", "time, command",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One adapter at one error, without and with its start.

    Attributes:
        asked, error: the relative error asked for, and what the file with the start says of its own.
        plain_modules, modules: bytes of the coded modules without the start and with it.
        plain_file, file: bytes of the whole files.
        bound, known: bytes of the bound that knows nothing, and of the one that knows the start.
        time, command: processor time with the start over that without, in this process and in one of its own.
    """

    adapter: str
    asked: float
    error: float
    plain_modules: int
    modules: int
    plain_file: int
    file: int
    bound: float
    known: float
    time: float
    command: float

    @property
    def ratio(self) -> float:
        return self.modules / self.plain_modules


def measure(real: RealAdapter, error: float, rounds: int) -> Row:
    made: dict[str, Compressed] = {}
    times: dict[str, list[float]] = {"none": [], "auto": []}
    for _ in range(rounds):
        for start, spent in times.items():
            began = time.process_time()
            made[start] = adaptzip.compress(real.path, max_error=error, device="cpu", start=start)
            spent.append(time.process_time() - began)
    whole = {start: min(_command(real.path, error, start) for _ in range(rounds)) for start in times}
    plain, known = made["none"], made["auto"]
    reached = known.provenance.relative_error
    return Row(
        real.name,
        error,
        reached,
        plain.payload_bytes,
        known.payload_bytes,
        writer.size(plain),
        writer.size(known),
        least_bytes(real.parts.unknown, reached),
        least_bytes(real.parts, reached),
        min(times["auto"]) / min(times["none"]),
        whole["auto"] / whole["none"],
    )


def _command(adapter: Path, error: float, start: str) -> float:
    """Processor seconds of `adaptzip compress` from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["compress", str(adapter), "--max-error", str(error), "--start", start, "-o", f"{folder}/x.adz", "-q"]
        began = os.times()
        subprocess.run([sys.executable, "-m", "adaptzip", *words], check=True, capture_output=True)
        ended = os.times()
    return ended.children_user + ended.children_system - began.children_user - began.children_system


def render(rows: Sequence[Row]) -> str:
    cells = [
        [
            row.adapter, f"{row.asked:g}", f"{row.plain_modules:,}", f"{row.modules:,}", f"{row.ratio:.3f}",
            f"{row.plain_file:,}", f"{row.file:,}", f"{row.bound:,.0f}", f"{row.known:,.0f}",
            f"{row.modules / row.bound:.3f}", f"{row.modules / row.known:.3f}", f"{row.time:.2f}",
            f"{row.command:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    return page.table(_HEAD, cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", type=Path, nargs="*", default=list(ADAPTERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    adapters = find(options.adapters)
    if not adapters:
        print("error: no readable adapter with a non-zero update was found", file=sys.stderr)
        return 2
    with on_one_core():
        rows = [measure(real, error, options.rounds) for real in adapters for error in ERRORS]
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else render(rows))
    if options.write:
        page.put("starts", render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
