"""Many adapters in one command, beside a loop in Python: `python -m benchmarks.many [--adapters 500] [--write]`.

Both compress the same random adapters into a folder, in a process of their own, in turn; medians of the pairs' ratios
of processor time count, start of the process included. The second run of the command finds all done.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page
from benchmarks.commands import machine

BAR = 1.15
"""Most processor time of the command, as a multiple of the loop's."""
_LOOP = """
import sys
from pathlib import Path
import adaptzip
for source in sorted(Path(sys.argv[1]).iterdir()):
    adaptzip.compress(source, Path(sys.argv[2]) / f"{source.name}.adz", budget="20x", force=True)
"""
_MAKE = """
import sys
from pathlib import Path
import torch, adaptzip
from adaptzip.testing.adapters import adapter
for number in range(int(sys.argv[2])):
    made = adapter({f"l.{i}.q_proj": (192, 192, 8) for i in range(6)}, seed=number)
    adaptzip.export(made, Path(sys.argv[1]) / f"{number:04}", as_="peft")
"""


def seconds(*words: str) -> float:
    """Processor time of a Python process and what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(count: int, pairs: int, folder: Path) -> tuple[list[float], list[float], list[float]]:
    """Processor times of the command, of the loop, and of the command where all is done."""
    sources, loop, command = (folder / name for name in ("sources", "loop", "command"))
    for place in (sources, loop):
        place.mkdir()
    seconds("-c", _MAKE, str(sources), str(count))
    names = [str(source) for source in sorted(sources.iterdir())]
    words = ["-m", "adaptzip", "compress", *names, "--output-dir", str(command), "--budget", "20x", "-q"]
    sides = {"command": [*words, "-f"], "loop": ["-c", _LOOP, str(sources), str(loop)]}
    found: dict[str, list[float]] = {"command": [], "loop": [], "again": []}
    for turn in range(pairs):
        for name in sorted(sides, reverse=turn % 2 == 1):
            found[name].append(seconds(*sides[name]))
        found["again"].append(seconds(*words))
    for name in sorted(path.name for path in loop.iterdir()):
        assert (loop / name).read_bytes() == (command / name).read_bytes(), name
    return found["command"], found["loop"], found["again"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=500, help="how many (default: 500)")
    parser.add_argument("--pairs", type=int, default=3, help="how often each side runs (default: 3)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    # As installed packages do.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, again = measure(options.adapters, options.pairs, Path(folder))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    rows = [
        ("`compress ... --output-dir`", ours, f"{ratio:.2f}"),
        ("a loop of `adaptzip.compress`", theirs, "1"),
        ("the command again, all being done", again, f"{statistics.median(again) / statistics.median(theirs):.2f}"),
    ]
    text = f"{machine()} {options.adapters} adapters, {options.pairs} pairs.\n\n"
    text += "| | processor time | from - to | beside the loop |\n|---|---:|---:|---:|\n"
    for name, times, beside in rows:
        text += f"| {name} | {statistics.median(times):.1f} s | {min(times):.1f} - {max(times):.1f} s | {beside} |\n"
    print(text)
    if options.write:
        page.put("many", text)
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
