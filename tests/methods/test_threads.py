"""Equal bytes on any number of threads, at sizes where torch and BLAS share out their work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptzip.methods import fittable
from tests.methods.compress_on_threads import RUNS

ROOT = Path(__file__).parents[2]
THREADS = (1, 2, 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What each number of threads made, in processes side by side."""
    found = [tmp_path_factory.mktemp(f"threads-{threads}") for threads in THREADS]
    running = []
    for threads, folder in zip(THREADS, found, strict=True):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "tests.methods.compress_on_threads", str(threads), str(folder)]
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    assert [process.wait() for process in running] == [0] * len(THREADS)
    return found


def test_every_method_is_tried() -> None:
    assert {options.get("to", name) for name, (_, options) in RUNS.items()} >= set(fittable())


@pytest.mark.parametrize("name", [*(f"{name}.adz" for name in RUNS), "directions.safetensors"])
def test_the_number_of_threads_changes_no_byte(name: str, folders: list[Path]) -> None:
    assert len({(folder / name).read_bytes() for folder in folders}) == 1
