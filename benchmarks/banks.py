"""Banks of vectors (`--to vblora`): errors at parameter budgets, against k-means, and the cost of large fits.

usage: python -m benchmarks.banks [--write] [--only budgets|kmeans|command|large] [--large ADAPTER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sklearn.cluster import KMeans

import adaptzip
from adaptzip.core.method import FitContext
from adaptzip.methods._banks.factors import Group, groups, squared_errors, start
from adaptzip.methods._banks.fit import Shape, fit_bank
from adaptzip.methods._vblora_config import Config
from adaptzip.methods.vblora import METHOD
from benchmarks import page
from benchmarks.real_adapters import MATERIAL, RealAdapter, find

MAIN = "gpt2-tigrinya"
BARS = {78_000: 0.20, 50_000: 0.40}
"""Squared relative error allowed at a number of stored parameters."""
KMEANS = (1, 8, 256)
"""Rank, length and vectors of the comparison with k-means."""
LARGE = Config(rank=16, length=256, vectors=2048, top_k=2, memory=2.0)
SECONDS, GIGABYTES = 15.0, 6.0
COMMAND_BUDGET, COMMAND_SECONDS = "50k", 8.0
"""Times are for two cores that have nothing else to do."""
PARTS = ("budgets", "kmeans", "command", "large")


def budgets() -> tuple[str, bool]:
    """gpt2-tigrinya at the issue's budgets, coded, with one rank for all modules and without."""
    rows, met = [], True
    for budget, bar in BARS.items():
        for uniform in (True, False):
            made = adaptzip.compress(MATERIAL / MAIN, to="vblora", budget=str(budget), uniform=uniform, device="cpu")
            config, error = made.config, made.provenance.relative_error**2
            met &= error <= bar
            shape = [str(config[key]) for key in ("rank", "length", "vectors", "top_k")]
            count = f"{made.provenance.parameters:,}"
            rows.append([str(budget), str(uniform).lower(), *shape, count, f"{error:.4f}", f"{bar:.2f}"])
    head = ["parameters allowed", "uniform", "rank", "length", "vectors", "k", "stored", "err2", "bar"]
    return page.table(head, rows), met


def against_kmeans() -> tuple[str, bool]:
    """The same number of stored parameters as scikit-learn's k-means codebook, on every readable adapter."""
    rows, met = [], True
    for real in find([MATERIAL]):
        ours, theirs, parameters = _compare(real)
        met &= ours < theirs
        rows.append([real.name, f"{parameters:,}", f"{ours:.4f}", f"{theirs:.4f}"])
    return page.table(["adapter", "parameters", "bank err2", "k-means err2"], rows), met


def _compare(real: RealAdapter) -> tuple[float, float, int]:
    """Squared relative errors of a bank and of k-means in the same first gauge, and what each stores."""
    rank, length, most = KMEANS
    modules = {name: module for name, module in real.adapter.modules.items() if bool(module.delta().any())}
    found = list(groups(modules, dict.fromkeys(modules, rank), {}, torch.device("cpu")))
    starts = [[_padded(rows, length) for rows in start(group)] for group in found]
    pieces = torch.cat([rows.reshape(-1, length) for pair in starts for rows in pair])
    h = min(most, len(pieces) // 4)
    fit = fit_bank(found, Shape(h, length, 1, 64), 0)
    labels = KMeans(h, n_init=1, random_state=0).fit(pieces.numpy())
    nearest = torch.from_numpy(labels.cluster_centers_[labels.labels_]).float()
    error, place = 0.0, 0
    for group, pair in zip(found, starts, strict=True):
        coded = []
        for rows, width in zip(pair, (group.V.shape[1], group.U.shape[1]), strict=True):
            count = rows.numel() // length
            coded.append(nearest[place : place + count].reshape(rows.shape)[..., :width])
            place += count
        error += float(squared_errors(group, coded[0], coded[1]).sum())
    energy = _energy(found)
    return sum(float(e.sum()) for e in fit.errors) / energy, error / energy, len(pieces) + h * length


def _padded(rows: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % length))


def _energy(found: Sequence[Group]) -> float:
    return sum(float(group.energy.sum()) for group in found)


def large(adapter: Path | None) -> tuple[str, bool]:
    """Time and peak memory of the bank of a 7B-shaped adapter of rank 16, in a process of its own."""
    with TemporaryDirectory() as folder:
        if adapter is None:
            adapter = Path(folder) / "adapter"
            subprocess.run([sys.executable, "-m", "benchmarks.shaped_adapter", str(adapter)], check=True)
        command = [sys.executable, "-m", "benchmarks.banks", "--child", str(adapter)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    met = found["seconds"] < SECONDS and found["gigabytes"] < GIGABYTES
    row = [
        f"{found['seconds']:.0f} s", f"{found['processor']:.0f} s", f"{SECONDS:.0f} s", f"{found['gigabytes']:.2f} GB",
        f"{GIGABYTES:.0f} GB", f"{found['error']:.4f}", f"{found['load']:.1f}",
    ]  # fmt: skip
    head = ["bank fit", "time", "processor time", "bar", "peak memory", "bar", "err2", "load average"]
    return page.table(head, [["h = 2048, b = 256, k = 2", *row]]), met


def command() -> tuple[str, bool]:
    """Time of `adaptzip compress` with a parameter budget, the whole process."""
    with TemporaryDirectory() as folder:
        words = ["compress", str(MATERIAL / MAIN), "--to", "vblora", "--budget", COMMAND_BUDGET, "--device", "cpu"]
        words += ["-o", str(Path(folder) / "lora.adz"), "--quiet"]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "adaptzip", *words], check=True)
        seconds = time.perf_counter() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = [f"{seconds:.1f} s", f"{used:.1f} s", f"{COMMAND_SECONDS:.0f} s", f"{os.getloadavg()[0]:.1f}"]
    name = f"compress {MAIN} --budget {COMMAND_BUDGET}"
    table = page.table(["command", "time", "processor time", "bar", "load average"], [[name, *row]])
    return table, seconds < COMMAND_SECONDS


def child(adapter: Path) -> None:
    """Fit the large bank, and print what it took, and its squared relative error."""
    modules, context = adaptzip.read(adapter).modules, FitContext()
    before = time.perf_counter()
    config, prepared = METHOD.prepare(modules, LARGE, context)
    seconds = time.perf_counter() - before
    used = resource.getrusage(resource.RUSAGE_SELF)
    fits = METHOD.fit(modules, config, prepared, context).values()
    print(
        json.dumps(
            {
                "seconds": seconds,
                "processor": used.ru_utime + used.ru_stime,
                "gigabytes": used.ru_maxrss * 1024 / 1e9,
                "error": sum(float(one.errors[-1]) for one in fits) / sum(float(f.group.energy.sum()) for f in fits),
                "load": os.getloadavg()[0],
            }
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given again")
    parser.add_argument("--large", type=Path, help="a 7B-shaped adapter that was made before")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child)
        return 0
    makes: dict[str, Callable[[], tuple[str, bool]]] = {
        "budgets": budgets,
        "kmeans": against_kmeans,
        "command": command,
        "large": partial(large, options.large),
    }
    made = {part: makes[part]() for part in options.only or PARTS}
    text = "\n".join(table for table, _ in made.values())
    print(text)
    if options.write:
        page.put("banks", text)
    return 0 if all(met for _, met in made.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
