"""Build the sdist and, from it, the wheel; check both; install the wheel and use it: `python -m checks.wheels`.

The wheel goes into two clean environments, with the lowest and with the newest versions that pyproject.toml allows,
but for torch, which is the one in constraints.txt in both: other releases may be gigabytes of CUDA to download. What
the lowest torch does is seen by the workflow `lowest`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from adaptzip._version import __version__
from checks.wheels.bounds import ROOT, lowest, pins, requirements
from checks.wheels.contents import sdist_problems, tracked, wheel_problems
from checks.wheels.smoke import Installed, smoke

FIXTURE = ROOT / "fixtures" / "lists-minilm-r16"
_LIST = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"


def main() -> int:
    """Build, look, install, use; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m checks.wheels", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="where sdist and wheel are put")
    output: Path = parser.parse_args().output.resolve()
    sdist, wheel = build(output)
    files = tracked(ROOT)
    problems = [*sdist_problems(sdist, files), *wheel_problems(wheel, files)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    torch = f"torch=={pins((ROOT / 'constraints.txt').read_text(encoding='utf-8'))['torch']}"
    wanted = [each for each in requirements() if each.name != "torch"]
    try_out("newest", wheel, [torch])
    try_out("lowest", wheel, [torch, *map(str, lowest(wanted))])
    print("wheel and sdist: whole, and the wheel does the main job at both ends of what it allows")
    return 0


def build(output: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    _python("build", "--no-isolation", "--outdir", str(output), str(ROOT))
    return output / f"adaptzip-{__version__}.tar.gz", output / f"adaptzip-{__version__}-py3-none-any.whl"


def try_out(name: str, wheel: Path, pinned: Sequence[str]) -> None:
    """Install a wheel into a new environment and do the main job there."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="adaptzip-") as place:
        installed = Installed(Path(place).resolve() / "environment", Path(place).resolve() / "work")
        installed.folder.mkdir()
        _python("venv", str(installed.environment))
        pip = ("python", "-m", "pip", "--disable-pip-version-check")
        # Most of torch is never imported here, so that compiling all of it would cost more than the rest.
        installed.run(*pip, "install", "--quiet", "--no-compile", "--only-binary=:all:", str(wheel), *pinned)
        installed.run(*pip, "check")
        versions = installed.run("python", "-I", "-c", _LIST, *(each.name for each in requirements())).strip()
        ready = time.monotonic()
        smoke(installed, FIXTURE, __version__)
    print(f"{name}: {versions}: installed in {ready - started:.0f} s, used in {time.monotonic() - ready:.0f} s")


def _python(module: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", module, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
