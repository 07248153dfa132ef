"""Other tools' commands, each run as a process of its own, and what machine they run on."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

QUIET = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
"""Nothing is asked of a Hub, and no package of this project is seen."""


def run(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command in a folder: `total` seconds, and peak bytes of all memory and of what is no file's.

    Its exit code tells nothing here: mergekit fails at its model card where it cannot ask the Hub, all being written.
    """
    start = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **QUIET},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    anonymous, done = [0.0], threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(anonymous, done, child.pid))
    watcher.start()
    _, _, usage = os.wait4(child.pid, 0)
    child.returncode = 0
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return {"total": seconds, "peak": usage.ru_maxrss * 1024.0, "anonymous": anonymous[0]}


def watch_memory(peak: list[float], stop: threading.Event, process: int | str = "self") -> None:
    """Note the largest anonymous memory of a process, where the system tells it."""
    status = Path(f"/proc/{process}/status")
    while status.exists() and not stop.wait(0.02):
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        peak[0] = max(peak[0], *(float(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def machine() -> str:
    """On what was measured, as the page tells it."""
    threads = os.environ.get("OMP_NUM_THREADS")
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = "" if threads is None else f", OMP_NUM_THREADS={threads}"
    return f"Measured on {count} processor cores{limit}; load average {os.getloadavg()[0]:.1f}."
