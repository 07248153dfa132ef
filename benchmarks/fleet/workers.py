"""A fleet into a store by several kinds of workers, side by side: the same bytes, and how long each takes.

    python -m benchmarks.fleet.workers [--count 400] [--write]

One process, two processes, two ranks that are started at once, and Ray with two workers where it is installed. Each
puts the same synthetic fleet into a store of its own: `fleet basis`, then `fleet compress`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks import page
from benchmarks.commands import machine
from benchmarks.fleet import synthetic
from benchmarks.fleet.kills import digests

KINDS: Mapping[str, Sequence[Sequence[str]]] = {
    "one process": [["--jobs", "1"]],
    "two processes": [["--jobs", "2"]],
    "two ranks": [["--rank", str(rank), "--world-size", "2"] for rank in range(2)],
    "Ray, two workers": [["--engine", "ray", "--jobs", "2"]],
}
"""The options of the commands that are run at once."""


def seconds(fleet: Path, store: Path, kinds: Sequence[Sequence[str]]) -> float:
    """Wall time of both jobs."""
    begun = time.perf_counter()
    for job in (["basis", "-k", "32"], ["compress"]):
        start = [
            sys.executable,
            "-m",
            "adaptzip",
            "fleet",
            *job,
            str(fleet),
            "-o",
            str(store),
            "--max-error",
            "0.3",
            "-q",
        ]
        runs = [subprocess.Popen([*start, *options]) for options in kinds]
        codes = [run.wait() for run in runs]
        if any(codes):
            raise SystemExit(f"{' '.join(start)}: ended with {codes}")
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        synthetic.main(["--out", f"{folder}/fleet", "--count", str(asked.count)])
        first: dict[str, str] = {}
        base = 0.0
        for name, kinds in KINDS.items():
            if "Ray" in name and find_spec("ray") is None:
                continue
            store = Path(folder) / name
            took = seconds(Path(folder) / "fleet", store, kinds)
            found = digests(store)
            first, base = first or found, base or took
            rows.append([name, f"{took / base:.2f}", "the same" if found == first else "others"])
    text = page.table(["workers", "time, as a share of one process's", "bytes"], rows)
    print(text)
    print(f"{asked.count} adapters on {machine()}", file=sys.stderr)
    if asked.write:
        page.put("fleet-workers", text)


if __name__ == "__main__":
    main()
