"""How a command's time and memory grow with the number of adapters, each run in a process of its own.

The command is what follows `--`; {SOURCES} becomes the folders of the adapters, {FLEET} the folder that holds them,
and {OUT} a folder that is not there yet. `adaptzip` is this interpreter's. Adapters are those of
`benchmarks.fleet.synthetic`. The smallest size runs once before anything is measured, since a first run finds nothing
compiled or read. Exponents are those of what a size takes beyond the smallest. With --rows, sizes that were measured
before are not measured again.

    python -m benchmarks.fleet.growth [--sizes 100 316 1000] [--work DIR] [--rows FILE] [--write NAME] \\
        -- adaptzip compress {SOURCES} --output-dir {OUT} --budget 20x -q
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptzip.fleet.checking import report_fleet
from adaptzip.fleet.store.layout import INDEX
from benchmarks import page
from benchmarks.commands import machine
from benchmarks.fleet import synthetic
from benchmarks.speed_growth import exponent

SIZES = (100, 316, 1_000, 3_162, 10_000)
COMMAND = ("adaptzip", "compress", "{SOURCES}", "--output-dir", "{OUT}", "--budget", "20x", "-q")
PLACES = ("{SOURCES}", "{FLEET}", "{OUT}")
"""What stands for paths in a command."""
OWN = "adaptzip"
HEAD = ["adapters", "processor time", "a thousand adapters", "wall time", "peak memory", "bytes written"]
# A process begins with the memory of the one that starts it, which counts towards its peak: here a small one does.
_WATCH = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
wall = time.perf_counter() - begun
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, wall, used.ru_maxrss]))
sys.exit(code)
"""


@dataclass(frozen=True)
class Used:
    """What one run took, its own children included.

    Attributes:
        processor, wall: seconds.
        peak: bytes, the largest resident set of any one of its processes.
        written: bytes of the files that it made.
        told: what `fleet compress` says of it, where {OUT} is a store.
    """

    adapters: int
    processor: float
    wall: float
    peak: int
    written: int
    told: str = ""


def words(command: Sequence[str], sources: Sequence[Path], fleet: Path, out: Path) -> list[str]:
    """The command of one run."""
    places = dict(zip(PLACES, ([str(path) for path in sources], [str(fleet)], [str(out)]), strict=True))
    found = [word for part in command for word in places.get(part, [part])]
    return [sys.executable, "-m", OWN, *found[1:]] if found[0] == OWN else found


def run(command: Sequence[str]) -> tuple[float, float, int]:
    """Processor seconds, wall seconds and peak bytes of a process and those that it waits for.

    Raises:
        CalledProcessError: if it fails.
    """
    done = subprocess.run([sys.executable, "-c", _WATCH, *command], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command[:4])
    processor, wall, peak = json.loads(done.stdout)
    # Linux tells KiB, macOS bytes.
    return processor, wall, peak * (1 if sys.platform == "darwin" else 1024)


def measure(command: Sequence[str], count: int, work: Path) -> Used:
    """One run over the first adapters of a made-up fleet, which is made where it is not there yet."""
    fleet, out = work / f"fleet-{count}", work / "out"
    if not fleet.exists():
        synthetic.main(["--out", str(fleet), "--count", str(count)])
    shutil.rmtree(out, ignore_errors=True)
    sources = sorted(path for path in fleet.iterdir() if path.is_dir())
    processor, wall, peak = run(words(command, sources, fleet, out))
    written = [path for path in (out.rglob("*") if out.is_dir() else [out]) if path.is_file()]
    return Used(count, processor, wall, peak, sum(path.stat().st_size for path in written), told_of(out))


def kept(rows: Path | None) -> dict[int, Used]:
    """What was measured before, by the number of adapters."""
    lines = rows.read_text().splitlines() if rows is not None and rows.exists() else []
    return {used.adapters: used for used in (Used(**json.loads(line)) for line in lines)}


def keep(rows: Path | None, used: Used) -> None:
    """Add what was measured to the file of rows."""
    if rows is not None:
        with rows.open("a") as handle:
            handle.write(json.dumps(asdict(used)) + "\n")


def table(found: Sequence[Used]) -> str:
    """What each size took, and the exponents."""
    rows = [
        [
            f"{used.adapters:,}",
            f"{used.processor:.1f} s",
            f"{1000 * used.processor / used.adapters:.1f} s",
            f"{used.wall:.1f} s",
            f"{used.peak / 2**20:.0f} MiB",
            f"{used.written:,}",
        ]
        for used in found
    ]
    sizes = [used.adapters for used in found]
    time_power = exponent(sizes, [used.processor for used in found])
    text = f"Processor time grows with the number of adapters to the power {time_power:.2f}, "
    grown = found[-1].peak / found[0].peak
    text += f"peak memory {grown:.2f}-fold from {sizes[0]:,} to {sizes[-1]:,}. {machine()}"
    return f"{page.table(HEAD, rows)}\n{text}\n"


def told_of(store: Path) -> str:
    """What `fleet compress` made of the last and largest fleet, where {OUT} is a store."""
    runs = [run for run in report_fleet(store)["runs"] if "alone_bytes" in run] if (store / INDEX).is_dir() else []
    if not runs:
        return ""
    run = runs[-1]
    count = sum(method["adapters"] for method in run["methods"].values())
    parts = [
        f"The last {count:,} adapters take {run['bytes']:,} bytes in their store, {run['shared_bytes']:,} of it shared",
        f"and {run['alone_bytes']:,} by `svd` alone; before they were {run['source_bytes']:,}. The median error is "
        f"{run['error']:.2f}",
    ]
    text = ", ".join(parts)
    mean = "" if run["mean_error"] is None else f", and {run['mean_error']:.2f} where their mean stands for each"
    return f"{text}{mean}.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command at every size, and print the table."""
    options = _parser().parse_args(arguments)
    command = [word for word in options.command if word != "--"] or list(COMMAND)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        found: list[Used] = []
        for size in options.sizes:
            used = kept(options.rows).get(size)
            if used is None:
                if not found:
                    measure(command, size, work)
                used = measure(command, size, work)
                keep(options.rows, used)
            found.append(used)
            print(used, file=sys.stderr, flush=True)
        said = " ".join(word if word in PLACES else shlex.quote(word) for word in command)
        text = f"`{said}`\n\n{table(found)}\n{found[-1].told}"
    print(text)
    if options.write:
        page.put(options.write, text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of adapters, rising")
    parser.add_argument("--work", type=Path, help="where fleets are made and kept (default: a temporary folder)")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="where what was measured is kept and looked for")
    parser.add_argument("--write", metavar="NAME", help="put the table into docs/benchmarks.md, at NAME")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=f"default: {' '.join(COMMAND)}")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
