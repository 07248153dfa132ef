"""Tests run in forked children, side by side, each with a copy of the repository of its own.

The parent imports what is slow to import and knows nothing of adaptzip; a child imports adaptzip as its copy has it.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

SLOW_IMPORTS = ("torch", "scipy.linalg", "pytest", "safetensors.torch", "transformers", "peft", "typer")
PYTEST = ("-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Options of every run: the same examples each time, and plug-ins may be among what was imported before."""
MEMORY = 12 * 2**30
"""Bytes that a child may have: a mutant that asks for more is noticed."""
_PATIENCE = 8.0
"""How many times its computing time a child is waited for, for one that hangs."""
_TIDE = 0.02
"""Seconds between two looks at the children."""


@dataclass(frozen=True)
class Trial:
    """What one child is to do.

    Attributes:
        prepare: called before the fork with the copy it will run in.
        run: called in the child, in its copy; what it returns is the child's exit status.
        seconds: how long it may compute; it is waited for much longer where others use the machine too.
    """

    prepare: Callable[[Path], None]
    run: Callable[[], int]
    seconds: float


@contextmanager
def copies(root: Path, count: int) -> Iterator[list[Path]]:
    """Copies of the files that git knows or would know, in a temporary folder."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    with TemporaryDirectory() as folder:
        made = [Path(folder, str(number), "tree") for number in range(count)]
        for tree in made:
            for name in filter(None, names):
                if (root / name).is_file():
                    (tree / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(root / name, tree / name)
        yield made


def import_slowly() -> None:
    """Import once what every child needs; what is not installed is left to the tests."""
    for name in SLOW_IMPORTS:
        try:
            import_module(name)
        except ImportError:
            continue


def run_all(trials: Sequence[Trial], trees: Sequence[Path]) -> Iterator[tuple[int, int | None]]:
    """(index, exit status) of every trial as it ends, None where it took too long; one child per copy at a time."""
    waiting = list(enumerate(trials))[::-1]
    free = list(trees)
    running: dict[int, tuple[int, Path, float]] = {}
    while waiting or running:
        while waiting and free:
            index, trial = waiting.pop()
            tree = free.pop()
            running[_start(trial, tree)] = index, tree, time.monotonic() + _PATIENCE * trial.seconds
        time.sleep(_TIDE)
        for child, (index, tree, deadline) in list(running.items()):
            status = _ended(child, deadline)
            if status != "running":
                del running[child]
                free.append(tree)
                yield index, status if isinstance(status, int) else None


def _start(trial: Trial, tree: Path) -> int:
    trial.prepare(tree)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        _settle(tree, int(trial.seconds) + 1)
        status = trial.run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _settle(tree: Path, seconds: int) -> None:
    """Make the copy this process's repository, and its output a file beside it."""
    os.chdir(tree)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    os.environ["PYTHONPATH"] = str(tree)
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.partition(".")[0] in {"adaptzip", "checks", "tests"}]:
        del sys.modules[name]
    output = os.open(tree.parent / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _ended(child: int, deadline: float) -> int | str | None:
    """The exit status of a child, "running", or None where its time was over."""
    found, status = os.waitpid(child, os.WNOHANG)
    if found:
        _end_group(child)
        return os.waitstatus_to_exitcode(status)
    if time.monotonic() < deadline:
        return "running"
    _end_group(child)
    os.waitpid(child, 0)
    return None


def _end_group(child: int) -> None:
    """End what the child started, and the child."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return
