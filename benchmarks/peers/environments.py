"""An environment for each peer, made when it is first asked, and jobs that are done in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptzip.errors import AdaptzipError
from benchmarks.peers.drivers.exchange import Arrays, load
from benchmarks.peers.packages import Package

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "adaptzip-benchmarks" / "peers"
ROOT = Path(__file__).parents[2]
LONGEST = 1800
"""Seconds that a job may take."""


class PeerAbsentError(AdaptzipError):
    """A peer that cannot be installed."""


class PeerFailedError(AdaptzipError):
    """A peer that did not do what it was asked for."""


@dataclass(frozen=True)
class Answer:
    """What a peer made of arrays: the bytes that it takes for them, and the arrays that it gives back."""

    bytes: int
    arrays: Arrays


class Environments:
    """Environments in a folder; remembers which could not be made."""

    def __init__(self, folder: Path = CACHE) -> None:
        self.folder = folder
        self.absent: dict[str, str] = {}

    def ask(self, package: Package, arrays: Arrays, settings: Sequence[Any]) -> list[Answer]:
        """The answers to each setting.

        Raises:
            PeerAbsentError: if there is no environment and none can be made.
            PeerFailedError: if the peer's program fails or takes too long.
        """
        python = self.python(package)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            np.savez(folder / "in.npz", **arrays)  # type: ignore[arg-type]
            (folder / "settings.json").write_text(json.dumps(list(settings)))
            _run_driver(python, package, folder)
            sizes = json.loads((folder / "sizes.json").read_text())
            return [Answer(size, load(folder / f"out-{number}.npz")) for number, size in enumerate(sizes)]

    def python(self, package: Package) -> Path:
        """The interpreter of a peer's environment, which is made if it is not there in these versions."""
        if package.name in self.absent:
            raise PeerAbsentError(self.absent[package.name])
        place = self.folder / package.name
        python, note = place / "bin" / "python", place / "installed.txt"
        wanted = "\n".join(package.requirements)
        if not note.is_file() or note.read_text() != wanted:
            try:
                _make(package, place)
            except PeerAbsentError as error:
                self.absent[package.name] = str(error)
                raise
            note.write_text(wanted)
        return python


def _make(package: Package, place: Path) -> None:
    print(f"installing {' '.join(package.requirements)} into {place}", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    sources = [f"--no-binary={name}" for name in package.built]
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:", *sources]
    for words in (
        [sys.executable, "-m", "venv", str(place)],
        [str(place / "bin" / "python"), *pip, *package.requirements],
    ):
        done = subprocess.run(words, capture_output=True, text=True, env=_clean())
        if done.returncode:
            raise PeerAbsentError(
                f"{package.name} {package.version}: expected an environment, found {_last(done.stderr)!r}",
                hint=f"see what pip says of {package.requirements[0]}",
            )


def _run_driver(python: Path, package: Package, folder: Path) -> None:
    words = [str(python), "-s", "-m", f"benchmarks.peers.drivers.{package.driver}", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=_clean(), timeout=LONGEST)
    except subprocess.TimeoutExpired as error:
        raise PeerFailedError(f"{package.name} {package.version}: expected an answer within {LONGEST} s") from error
    if done.returncode:
        raise PeerFailedError(f"{package.name} {package.version}: expected an answer, found {_last(done.stderr)!r}")


def _clean() -> dict[str, str]:
    """The surroundings without the paths of the environment that this program runs in."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _last(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")
