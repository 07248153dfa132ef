"""Command lines in processes of their own, under the system's limits: what each took, and how it ended.

    python -m tests.hostile.children SECONDS < LINES

LINES is a JSON list of command lines. A process that is forked has everything imported, so that what it takes beyond
its parent is what its file makes of itself.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

ADDRESSES = 8 * 2**30
_STRANGE = 97
_HERE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code, or less the number of the signal that ended it.
        peak: bytes that it had beyond its parent.
        out, err: what it said.
    """

    code: int
    peak: int
    out: str
    err: str


def ran(lines: Sequence[Sequence[object]], seconds: int = 20) -> list[Ended]:
    """What became of each command line, which may take so many seconds of processor time."""
    words = json.dumps([[str(word) for word in line] for line in lines])
    command = [sys.executable, "-m", "tests.hostile.children", str(seconds)]
    done = subprocess.run(command, input=words, capture_output=True, text=True, check=True, cwd=_HERE)
    return [Ended(**told) for told in json.loads(done.stdout.splitlines()[-1])]


def import_all() -> None:
    """Import every module of the package that needs nothing besides."""
    import adaptzip

    for module in walk_packages(adaptzip.__path__, "adaptzip."):
        if not module.name.endswith(("__main__", ".cuda", ".conftest")) and ".testing" not in module.name:
            import_module(module.name)


def _run(words: list[str], seconds: int) -> Ended:
    from adaptzip.cli.app import main

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        child = os.fork()
        if not child:
            code = _STRANGE
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
                code = main(words)
                sys.stdout.flush()
            finally:
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        told = []
        for said in (out, err):
            said.seek(0)
            told.append(said.read().decode(errors="replace"))
        peak = max(0, used.ru_maxrss * 1024 - before)
        return Ended(os.waitstatus_to_exitcode(status), peak, *told)


def _main() -> None:
    lines: Any = json.load(sys.stdin)
    import_all()
    print(json.dumps([asdict(_run(words, int(sys.argv[1]))) for words in lines]))


if __name__ == "__main__":
    _main()
