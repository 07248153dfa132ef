"""Swapping under load: `python -m benchmarks.hot_swaps [--swaps 1000] [--adapters 50] [--write]`.

A small Llama runs in some threads while another puts adapters, read from `.adz` files, in each other's place. Every
output is held, bit for bit, against those that the adapters have alone: with `Swapping`, which lets requests that run
come to their end, and with `load_into(..., hotswap=True)` by itself, which does not wait. Resident memory is read
after each swap; its slope is the median of those between any two swaps of the last four fifths, which a single step of
the allocator does not move, and is told beside what it grew by in all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import theilslopes
from torch import Tensor

import adaptzip
from adaptzip.serving.swapping import Swapping
from benchmarks import page
from benchmarks.commands import machine

IDS = torch.arange(1, 17)[None]
RANKS = (2, 3, 5, 8)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_KIB = 1024
_WARM = 5
"""The part of all swaps, one in so many, after which memory is looked at."""


@dataclass
class Counts:
    """What threads saw: outputs in all, those of no adapter, and requests that failed. Memory and seconds by swap."""

    outputs: int = 0
    mixed: int = 0
    failed: int = 0
    resident: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def model() -> Any:
    """A small random Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    made: Any = LlamaForCausalLM(LlamaConfig(vocab_size=256, num_key_value_heads=2, **sizes))
    return made.eval()


def files_in(folder: Path, count: int) -> list[Path]:
    """A `.adz` of each of some random adapters, of four ranks in turn."""
    shapes = {n: m for n, m in model().named_modules() if n.endswith(("q_proj", "v_proj", "down_proj"))}
    found = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(9_000_000 + seed)
        rank, modules = RANKS[seed % len(RANKS)], {}
        for name, module in shapes.items():
            A = torch.randn(rank, module.in_features, generator=generator)
            modules[name] = adaptzip.LoraFactors(A, torch.randn(module.out_features, rank, generator=generator))
        found.append(folder / f"{seed}.adz")
        adaptzip.compress(adaptzip.Adapter(modules), found[-1], start="none", effort="fast")
    return found


@torch.no_grad()
def output(served: Any) -> Tensor:
    """What the model computes of a few tokens."""
    found: Tensor = served(input_ids=IDS).logits
    return found


def alone(files: Sequence[Path]) -> set[bytes]:
    """The output of each adapter with nothing else running, on a model of its own."""
    found = set()
    for file in files:
        served = model()
        Swapping(served, file)
        found.add(bits(output(served)))
    if len(found) != len(files):
        raise SystemExit("two adapters have one output")
    return found


def bits(tensor: Tensor) -> bytes:
    """The content of a tensor."""
    return tensor.numpy().tobytes()


@contextmanager
def under_load(
    served: Any, known: set[bytes], guard: Callable[[], Any], threads: int, counts: Counts
) -> Iterator[None]:
    """Run the model in some threads meanwhile, and count what comes."""
    stop, lock = threading.Event(), threading.Lock()

    def ask() -> None:
        while not stop.is_set():
            try:
                with guard():
                    found = bits(output(served))
            except RuntimeError:  # Factors of two ranks do not multiply.
                with lock:
                    counts.failed += 1
                continue
            with lock:
                counts.outputs += 1
                counts.mixed += found not in known

    running = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join()


def measure(files: Sequence[Path], known: set[bytes], swaps: int, threads: int, *, guarded: bool) -> Counts:
    """Swap the adapters in turn while threads run the model."""
    served, counts = model(), Counts()
    swapping = Swapping(served, files[0])

    def bare(file: Path) -> Any:
        return adaptzip.load_into(served, file, hotswap=True)

    put = swapping.swap if guarded else bare
    with under_load(served, known, swapping.running if guarded else nullcontext, threads, counts):
        for number in range(swaps):
            begun = time.perf_counter()
            put(files[number % len(files)])
            counts.seconds.append(time.perf_counter() - begun)
            counts.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE)
            time.sleep(0)
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if with `Swapping` any output was of no adapter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--adapters", type=int, default=50, help="between how many (default: 50)")
    parser.add_argument("--threads", type=int, default=2, help="that run the model (default: 2)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    rows, wrong = [], False
    with tempfile.TemporaryDirectory() as folder:
        files = files_in(Path(folder), options.adapters)
        known = alone(files)
        for name, guarded in (("`Swapping`", True), ("`load_into(..., hotswap=True)` alone", False)):
            found = measure(files, known, options.swaps, options.threads, guarded=guarded)
            wrong |= guarded and found.mixed + found.failed > 0
            rows.append([name, *told(found)])
    text = f"{machine()} {options.swaps:,} swaps between {options.adapters} adapters, {options.threads} threads.\n\n"
    text += page.table(["", "outputs", "of no adapter", "failed", "a swap takes", "resident memory grows by"], rows)
    print(text)
    if options.write:
        page.put("hot_swaps", text)
    return int(wrong)


def told(found: Counts) -> list[str]:
    """A row of the table."""
    later = np.array(found.resident[len(found.resident) // _WARM :], dtype=np.float64) / _KIB
    slope = float(theilslopes(later)[0])
    grown = f"{slope:.2f} KiB a swap, {(later[-1] - later[0]) / _KIB:.1f} MiB in all"
    counts = [f"{found.outputs:,}", f"{found.mixed:,}", f"{found.failed:,}"]
    return [*counts, f"{1000 * statistics.median(found.seconds):.0f} ms", grown]


if __name__ == "__main__":
    sys.exit(main())
