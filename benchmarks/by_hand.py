"""What reading and writing safetensors by hand costs, beside the library: bytes, seconds, and memory.

Each task runs in processes of its own; seconds are the least of several, in which the file is in the system's cache.
Memory is the peak of what the task takes that is no file's, such as mapped pages.

    python -m benchmarks.by_hand [--megabytes NUMBER] [--runs NUMBER]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.files.tensors import Pending, build_header, write_tensors
from adaptzip.files.weights import open_weights
from benchmarks.commands import watch_memory
from benchmarks.page import table

ROWS, WIDTH = 512, 1024
NAMES = "tensor.{}"


def _made(number: int) -> Tensor:
    return torch.full((ROWS, WIDTH), float(number), dtype=torch.float16)


def write_by_hand(path: Path, count: int) -> None:
    """Tensors are made one after the other, as a merge does."""
    form = _made(0)
    waiting = {NAMES.format(i): Pending(tuple(form.shape), form.dtype, partial(_made, i)) for i in range(count)}
    with path.open("wb") as handle:
        write_tensors(handle, waiting, build_header(waiting, {"format": "pt"}))


def write_with_library(path: Path, count: int) -> None:
    """It takes all of them at once."""
    save_file({NAMES.format(i): _made(i) for i in range(count)}, path, metadata={"format": "pt"})


def read_by_hand(path: Path, count: int) -> None:
    """Each tensor is looked at in turn."""
    for tensor in open_weights(path).tensors.values():
        tensor.sum()


def read_with_library(path: Path, count: int) -> None:
    """The same by `safe_open`."""
    with safe_open(path, "pt") as opened:
        for name in map(NAMES.format, range(count)):
            opened.get_tensor(name).sum()


TASKS: dict[str, Callable[[Path, int], None]] = {
    "written by hand": write_by_hand,
    "written by the library": write_with_library,
    "read by hand": read_by_hand,
    "read by the library": read_with_library,
}


def _measured(task: str, path: Path, count: int) -> tuple[float, float]:
    """Seconds, and bytes of memory."""
    before, peak = [0.0], [0.0]
    ready, stop = threading.Event(), threading.Event()
    threading.Timer(0.2, ready.set).start()
    watch_memory(before, ready)
    watcher = threading.Thread(target=watch_memory, args=(peak, stop))
    watcher.start()
    began = time.perf_counter()
    TASKS[task](path, count)
    seconds = time.perf_counter() - began
    stop.set()
    watcher.join()
    return seconds, max(peak[0] - before[0], 0.0)


def measure(task: str, path: Path, count: int, runs: int) -> tuple[float, float]:
    """The least seconds and the most memory of several processes."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = [pool.apply(_measured, (task, path, count)) for _ in range(runs)]
    return min(seconds for seconds, _ in found), max(memory for _, memory in found)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512, help="size of the file")
    parser.add_argument("--runs", type=int, default=3, help="processes for each task")
    asked = parser.parse_args(words)
    count = asked.megabytes * 10**6 // (2 * ROWS * WIDTH)
    with tempfile.TemporaryDirectory() as folder:
        files = {"hand": Path(folder) / "by_hand", "library": Path(folder) / "by_library"}
        rows = []
        for task in TASKS:
            seconds, memory = measure(task, files[task.rpartition(" ")[2]], count, asked.runs)
            rows.append([task, f"{seconds:.2f} s", f"{memory / 1e6:.0f} MB"])
        same = files["hand"].read_bytes() == files["library"].read_bytes()
    print(table([f"{asked.megabytes} MB of float16", "time", "memory"], rows))
    print(f"the files are {'equal' if same else 'different'}, byte for byte")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
