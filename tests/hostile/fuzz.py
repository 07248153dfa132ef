"""A structured fuzzer over everything that strangers' files go through: each case is a seed, in a process of its own.

No command may end in an internal error, take two seconds or more memory than its budget, or write what is not read.

    python -m tests.hostile.fuzz [TARGET ...] [--seconds 600] [--first SEED] [--keep DIR]
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.hostile import mutating
from tests.hostile.children import import_all

SECONDS, ADDRESSES = 10, 8 * 2**30
SLOW = 2.0
_STRANGE = 97
Commands = Iterator[tuple[list[object], list[object] | None]]
"""Command lines, each with one that must succeed where it does."""


def _archive(draw: random.Random, folder: Path, _: Path) -> Commands:
    path, out = folder / "x.adz", folder / "out"
    path.write_bytes(mutating.archive(draw))
    yield ["inspect", path], None
    yield ["verify", path], None
    yield ["export", path, "-o", out, "-q"], ["inspect", out, "-q", "--no-costs"]
    yield ["export", path, "--portable", "-o", folder / "portable", "-q"], ["inspect", folder / "portable", "-q"]


def _source(draw: random.Random, folder: Path, _: Path) -> Commands:
    path, packed, out = folder / "source", folder / "x.adz", folder / "out"
    path.mkdir()
    mutating.source(draw, path)
    yield ["inspect", path], None
    limit = draw.choice([["--lossless"], ["--budget", "50%"], ["--max-error", "0.3"]])
    yield ["compress", path, "-o", packed, "--effort", "fast", "-q", *limit], ["verify", packed, "--against", path]
    yield ["export", path, "--as", "peft", "-o", out, "-q"], ["inspect", out, "-q", "--no-costs"]


def _basis(draw: random.Random, folder: Path, good: Path) -> Commands:
    path = folder / "x.basis"
    mutating.basis(draw, path, good / "good.basis")
    yield ["basis", "show", path], None
    made = folder / "x.adz"
    words = ["compress", good / "my-adapter", "--to", "lora-sb", "--basis", path, "-o", made, "-q"]
    yield words, ["verify", made, "--basis", path]


def _base(draw: random.Random, folder: Path, good: Path) -> Commands:
    path = folder / "base"
    shutil.copytree(good / "base-model", path)
    mutating.base(draw, path)
    yield ["merge", good / "my-adapter", "--base", path, "-o", folder / "merged", "-q"], None


def _rows(draw: random.Random, folder: Path, good: Path) -> Commands:
    name, content = mutating.rows(draw)
    (folder / name).write_bytes(content)
    yield [*_evaluated(good, folder / name)], None


TARGETS: dict[str, Callable[[random.Random, Path, Path], Commands]] = {
    "archive": _archive, "source": _source, "basis": _basis, "base": _base, "rows": _rows,
}  # fmt: skip


def ended(words: Sequence[object]) -> tuple[int, float, int, str]:
    """Exit code, processor seconds, bytes beyond this process, and what stderr begins with."""
    from adaptzip.cli.app import main

    with tempfile.TemporaryFile() as said:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        child = os.fork()
        if not child:
            code = _STRANGE
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(said.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
                code = main([str(word) for word in words])
            finally:
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        said.seek(0)
        text = said.read(4000).decode(errors="replace")
    peak = max(0, used.ru_maxrss * 1024 - before)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, peak, text


def faults(target: str, seed: int, folder: Path, good: Path, slow: float) -> Iterator[str]:
    """What is wrong with what became of a seed's commands, each of which may take so many seconds."""
    import torch

    draw = random.Random(f"{target} {seed}")
    torch.manual_seed(draw.randrange(2**32))
    for words, then in TARGETS[target](draw, folder, good):
        code, seconds, peak, said = ended(words)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if code not in (0, 1, 2, 3) or seconds > slow or peak > 10**8 + 10 * size:
            yield f"{words[0]}: exit code {code}, {seconds:.1f} s, {peak / 1e6:.0f} MB: {said[:300]}"
        elif code == 0 and then is not None:
            again, _, _, why = ended(then)
            if again != 0:
                yield f"{then[0]} of what {words[0]} wrote: exit code {again}: {why[:300]}"


def good_files(folder: Path) -> None:
    """A sound adapter, its base model and a basis."""
    from adaptzip.cli.app import main
    from tests.cli.cli_cases import make_adapter, make_base

    make_adapter(folder / "my-adapter")
    make_base(folder / "base-model")
    if main(["basis", "build", str(folder / "my-adapter"), "-o", str(folder / "good.basis"), "-q"]):
        raise RuntimeError("no basis was built")
    # What is imported late is imported now, so that no case is charged for it.
    (folder / "good.txt").write_text("a b c\n")
    main(_evaluated(folder, folder / "good.txt"))


def _evaluated(good: Path, texts: Path) -> list[str]:
    """The command that runs the sound adapter on some texts."""
    adapter = str(good / "my-adapter")
    return ["eval", adapter, "--teacher", adapter, "--base", str(good / "base-model"), "--data", str(texts)]


def fuzz(
    targets: Sequence[str], seconds: float, first: int = 0, keep: Path | None = None, slow: float = SLOW
) -> tuple[int, list[str]]:
    """How many seeds were tried in so many seconds, and what is wrong with any."""
    import_all()
    found, seed, until = list[str](), first, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place:
        good = Path(place) / "good"
        good.mkdir()
        good_files(good)
        while time.monotonic() < until:
            for target in targets:
                folder = Path(place) / f"{target}-{seed}"
                folder.mkdir()
                for fault in faults(target, seed, folder, good, slow):
                    found.append(f"{target} {seed}: {fault}")
                    print(found[-1], file=sys.stderr, flush=True)
                    if keep is not None:
                        shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
                shutil.rmtree(folder)
            seed += 1
    return seed - first, found


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=600, help="how long, all targets together")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed")
    parser.add_argument("--slow", type=float, default=SLOW, help="seconds of processor time that a command may take")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where files with faults are kept")
    options = parser.parse_args()
    tried, found = fuzz(options.targets or list(TARGETS), options.seconds, options.first, options.keep, options.slow)
    print(f"{tried} seeds of each target, {len(found)} faults")
    return bool(found)


if __name__ == "__main__":
    sys.exit(_main())
