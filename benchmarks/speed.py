"""Time and peak memory of compressing and decompressing an adapter of the shape of a 7B model, or of SDXL.

Compressing is held against `zstd -19` on one thread and the same file, decompressing to a folder of its own dialect
against reading and writing that folder with safetensors. Every run is a process of its own and ends with its output
synced to disk. The two sides of a pair run in turn, the order changing from pair to pair, and the medians of the pairs'
ratios count, so that a busy machine disturbs both sides alike. "In process" leaves out the interpreter's start and the
imports.

The bars: compressing takes at most as long as zstd, decompressing at most 3 times as long as reading and writing,
both in process and as a whole process, and neither needs more memory than 4 times the file. Exits 1 when one is
missed; memory is judged only where the file is large enough to matter beside torch itself, which 32 layers are.

    python -m benchmarks.speed [--shape sdxl] [--layers 32] [--pairs 3] [--device cuda] [--json] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks import page
from benchmarks.commands import machine

COMPRESS_BAR, DECOMPRESS_BAR, MEMORY_BAR = 1.0, 3.0, 4.0
AGREEMENT = 1e-5
_JUDGED_BYTES = 100e6
_CONFIG = "adapter_config.json"
_PLACES = {"7b": "speed", "sdxl": "speed-sdxl"}
"""Where the page has the tables of each shape."""
Task = Callable[[], Mapping[str, float]]

# Nothing here imports torch before a child process does: a child's peak memory begins with its parent's.


@dataclass(frozen=True)
class Run:
    """One run in a process of its own.

    Attributes:
        whole: seconds from starting the process to its end.
        inside: seconds of the work alone.
        cpu: seconds of processor time of the whole process, over all its threads.
        peak: largest resident set in bytes.
        found: what else the work reported.
    """

    whole: float
    inside: float
    cpu: float
    peak: float
    found: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Medians over pairs of one side's time over the other's; `bar` is None where nothing is promised."""

    name: str
    beside: str
    inside: float
    whole: float
    cpu: float
    bar: float | None

    @property
    def met(self) -> bool:
        return self.bar is None or max(self.inside, self.whole) <= self.bar


@dataclass(frozen=True)
class Memory:
    """The largest peak of all runs of one kind, in bytes and over the file's size."""

    name: str
    peak: float
    share: float
    judged: bool

    @property
    def met(self) -> bool:
        return not self.judged or self.share <= MEMORY_BAR


def compress(folder: Path, device: str) -> Task:
    import adaptzip
    from adaptzip.fitting.compression import compress as work

    def task() -> Mapping[str, float]:
        work(folder / "adapter", folder / f"{device}.adz", device=device, force=True)
        return {"bytes": (folder / f"{device}.adz").stat().st_size}

    def measured() -> Mapping[str, float]:
        found = task()
        error = adaptzip.open(folder / f"{device}.adz").provenance.relative_error
        return {**found, "relative_error": error}

    return measured


def zstd(folder: Path) -> Task:
    import zstandard

    def task() -> Mapping[str, float]:
        data = _weights(folder).read_bytes()
        coded = zstandard.ZstdCompressor(level=19).compress(data)
        with (folder / "zstd").open("wb") as file:
            file.write(coded)
            os.fsync(file.fileno())
        return {"bytes": len(coded)}

    return task


def export(folder: Path) -> Task:
    from adaptzip.restoring.exporting import export as work

    def task() -> Mapping[str, float]:
        work(folder / "cpu.adz", folder / "exported", force=True)
        return {}

    return task


def rewrite(folder: Path) -> Task:
    from safetensors.torch import load_file, save_file

    def task() -> Mapping[str, float]:
        target = _fresh(folder / "rewritten")
        weights = _weights(folder)
        tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
        save_file(tensors, target / weights.name, metadata={"format": "pt"})
        if (weights.parent / _CONFIG).exists():
            shutil.copyfile(weights.parent / _CONFIG, target / _CONFIG)
        _sync(target)
        return {}

    return task


def copy(folder: Path) -> Task:
    def task() -> Mapping[str, float]:
        target = _fresh(folder / "copied")
        for file in (folder / "adapter").iterdir():
            shutil.copyfile(file, target / file.name)
        _sync(target)
        return {}

    return task


def imports(folder: Path) -> Task:
    from adaptzip.fitting import compression
    from adaptzip.restoring import exporting

    return lambda: {"modules": len((compression, exporting))}


TASKS: dict[str, Callable[[Path], Task]] = {
    "compress": lambda folder: compress(folder, "cpu"),
    "compress on cuda": lambda folder: compress(folder, "cuda"),
    "zstd -19": zstd,
    "decompress": export,
    "read and write": rewrite,
    "copy the file": copy,
    "import only": imports,
}


def _weights(folder: Path) -> Path:
    """The adapter's weight file."""
    return next((folder / "adapter").glob("*.safetensors"))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def measure(name: str, folder: Path) -> None:
    """Do one task in this process and print what it took."""
    task = TASKS[name](folder)
    start = time.perf_counter()
    found = task()
    inside = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    print(
        json.dumps(
            {
                "inside": inside,
                "cpu": usage.ru_utime + usage.ru_stime,
                "peak": usage.ru_maxrss * unit,
                "found": dict(found),
            }
        )
    )


def run(name: str, folder: Path) -> Run:
    command = [sys.executable, "-m", "benchmarks.speed", "--only", name, "--folder", str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    whole = time.perf_counter() - start
    result = Run(whole=whole, **json.loads(done.stdout.splitlines()[-1]))
    print(
        f"{name}: {result.whole:.2f} s, {result.inside:.2f} s in process, {result.peak / 1e6:.0f} MB", file=sys.stderr
    )
    return result


def compare(
    name: str, beside: str, folder: Path, pairs: int, runs: dict[str, list[Run]], bar: float | None
) -> Comparison:
    """Run both sides in turn; every run is added to `runs`."""
    for pair in range(pairs):
        for task in (name, beside) if pair % 2 == 0 else (beside, name):
            runs.setdefault(task, []).append(run(task, folder))
    ours, theirs = runs[name][-pairs:], runs[beside][-pairs:]

    def ratio(which: Callable[[Run], float]) -> float:
        return median(which(a) / which(b) for a, b in zip(ours, theirs, strict=True))

    return Comparison(name, beside, ratio(lambda r: r.inside), ratio(lambda r: r.whole), ratio(lambda r: r.cpu), bar)


def memory(name: str, runs: Sequence[Run], size: int) -> Memory:
    peak = max(r.peak for r in runs)
    return Memory(name, peak, peak / size, size >= _JUDGED_BYTES and name in ("compress", "decompress"))


def cuda_lines(folder: Path, pairs: int, runs: dict[str, list[Run]]) -> tuple[list[str], bool]:
    """What CUDA does, in words, and whether it agrees with the CPU."""
    present = "import torch; raise SystemExit(0 if torch.cuda.is_available() else 1)"
    if subprocess.run([sys.executable, "-c", present], check=False).returncode:
        return ["CUDA is not present, so nothing was measured on it."], True
    found = compare("compress on cuda", "compress", folder, pairs, runs, None)
    errors = [runs[name][-1].found["relative_error"] for name in ("compress on cuda", "compress")]
    apart = abs(errors[0] - errors[1])
    agree = apart <= AGREEMENT
    return [
        f"CUDA takes {found.inside:.2f} of the CPU's time in process, {found.whole:.2f} as a whole process.",
        f"Its relative error is {apart:.1e} from the CPU's; {'within' if agree else 'NOT WITHIN'} {AGREEMENT:g}.",
    ], agree


def render(size: int, runs: Mapping[str, Sequence[Run]], found: Sequence[Comparison], peaks: Sequence[Memory]) -> str:
    times = [
        [
            f"{c.name} / {c.beside}",
            f"{c.inside:.2f}",
            f"{c.whole:.2f}",
            f"{c.cpu:.2f}",
            "" if c.bar is None else f"{c.bar:g}",
            _verdict(c.met) if c.bar is not None else "",
        ]
        for c in found
    ]
    space = [
        [
            m.name,
            f"{m.peak / 1e6:,.0f} MB",
            f"{m.share:.2f}",
            f"{MEMORY_BAR:g}" if m.judged else "",
            _verdict(m.met) if m.judged else "",
        ]
        for m in peaks
    ]
    coded = runs["compress"][-1].found
    return "\n".join(
        [
            f"The file has {size:,} bytes; zstd -19 makes it {runs['zstd -19'][-1].found['bytes']:,.0f}, adaptzip "
            f"{coded['bytes']:,.0f} at relative error {coded['relative_error']:.4f}. {machine()}\n",
            page.table(["time", "in process", "whole process", "processor time", "bar", "met"], times),
            page.table(["peak memory of the whole process", "", "of the file", "bar", "met"], space),
        ]
    )


def _verdict(met: bool) -> str:
    return "yes" if met else "NO"


def make_adapter(folder: Path, shape: str, layers: int) -> int:
    """Write the adapter; its weight file's size."""
    maker, *more = ["shaped_adapter", "--layers", str(layers)] if shape == "7b" else ["sdxl_adapter"]
    subprocess.run([sys.executable, "-m", f"benchmarks.{maker}", str(folder / "adapter"), *more], check=True)
    return _weights(folder).stat().st_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=_PLACES, default="7b", help="sdxl: a kohya LoRA of SDXL's UNet, in float16")
    parser.add_argument("--layers", type=int, default=32, help="layers of the 7B adapter; 4 for a quick run")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side of a comparison")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: measure CUDA beside the CPU")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--only", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        measure(options.only, options.folder)
        return 0
    return _main(options)


def _main(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make_adapter(folder, options.shape, options.layers)
        runs: dict[str, list[Run]] = {"import only": [run("import only", folder)]}
        found = [
            compare("compress", "zstd -19", folder, options.pairs, runs, COMPRESS_BAR),
            compare("decompress", "read and write", folder, options.pairs, runs, DECOMPRESS_BAR),
            compare("decompress", "copy the file", folder, options.pairs, runs, None),
        ]
        words, agree = cuda_lines(folder, options.pairs, runs) if options.device == "cuda" else ([], True)
    peaks = [memory(task, runs[task], size) for task in ("compress", "decompress", "read and write", "import only")]
    text = "\n".join([render(size, runs, found, peaks), *words]).rstrip() + "\n"
    if options.json:
        times, space = [asdict(c) | {"met": c.met} for c in found], [asdict(m) | {"met": m.met} for m in peaks]
        everything = {task: [asdict(r) for r in some] for task, some in runs.items()}
        print(
            json.dumps(
                {"file_bytes": size, "times": times, "memory": space, "cuda": words, "runs": everything}, indent=2
            )
        )
    else:
        print(text)
    if options.write:
        page.put(_PLACES[options.shape], text)
    return 0 if agree and all(c.met for c in found) and all(m.met for m in peaks) else 1


if __name__ == "__main__":
    sys.exit(main())
