"""Kill random workers of `adaptzip fleet` until as many died as are asked for: is the store whole, and the same?

    python -m benchmarks.fleet.kills [--kills 60] [--count 64] [--jobs 2] [--seed 0] [--write]

A synthetic fleet is put into a store by an undisturbed run: `fleet basis`, then `fleet compress`. Then the same is done
again and again in new stores, while after random times one of the run's processes is killed (SIGKILL): one of its
workers, or the run itself, which is started again. Every store has to end up with the very bytes of the first.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import page
from benchmarks.commands import machine
from benchmarks.fleet import synthetic

_LONGEST = 20.0
"""Seconds to the next kill, at most."""


@dataclass
class Tally:
    """What was killed: workers, and runs as a whole; it counts."""

    workers: int = 0
    runs: int = 0
    stores: int = 0
    different: int = 0

    @property
    def kills(self) -> int:
        return self.workers + self.runs


def digests(store: Path) -> dict[str, str]:
    """Of every file in a store, but for what killed runs leave in the folder of drafts."""
    files = [file for file in sorted(store.rglob("*")) if file.is_file() and ".drafts" not in file.parts]
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def commands(fleet: Path, store: Path, jobs: int) -> list[list[str]]:
    """What puts a fleet into a store."""
    start = [sys.executable, "-m", "adaptzip", "fleet"]
    rest = [str(fleet), "-o", str(store), "--jobs", str(jobs), "--max-error", "0.3", "-q"]
    return [[*start, "basis", *rest, "-k", "32"], [*start, "compress", *rest]]


def undisturbed(fleet: Path, store: Path, jobs: int) -> dict[str, str]:
    """The digests of a store that nobody disturbed."""
    for words in commands(fleet, store, jobs):
        subprocess.run(words, check=True)
    return digests(store)


def disturbed(words: Sequence[str], chance: random.Random, tally: Tally, most: int) -> None:
    """Run one command to its end, however often it or one of its workers is killed."""
    while True:
        with subprocess.Popen(words, start_new_session=True) as run:
            while run.poll() is None and tally.kills < most:
                with suppress(subprocess.TimeoutExpired):
                    run.wait(chance.uniform(0, _LONGEST))
                if run.poll() is None:
                    _kill_one(run.pid, chance, tally)
            code = run.wait()
        if code != -signal.SIGKILL:
            break
    if code:
        raise SystemExit(f"{' '.join(words)}: ended with {code}")


def _kill_one(run: int, chance: random.Random, tally: Tally) -> None:
    workers = sorted(_children(run))
    victim = chance.choice([run, *workers])
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
        tally.workers += victim != run
        tally.runs += victim == run


def _children(process: int) -> Iterator[int]:
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(OSError):
            yield from map(int, (task / "children").read_text().split())


def measure(kills: int, count: int, jobs: int, seed: int) -> Tally:
    """Kill until enough died; every run is brought to its end."""
    chance, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        fleet = Path(folder) / "fleet"
        synthetic.main(["--out", str(fleet), "--count", str(count)])
        expected = undisturbed(fleet, Path(folder) / "undisturbed", jobs)
        while tally.kills < kills:
            store = Path(folder) / f"store-{tally.stores}"
            for words in commands(fleet, store, jobs):
                disturbed(words, chance, tally, kills)
            tally.stores += 1
            tally.different += digests(store) != expected
            print(f"{tally.kills} kills, {tally.stores} stores, {tally.different} different", file=sys.stderr)
    return tally


def shown(tally: Tally, count: int) -> str:
    head = ["adapters", "workers killed", "runs killed", "stores filled meanwhile", "of these not as undisturbed"]
    row = [count, tally.workers, tally.runs, tally.stores, tally.different]
    return page.table(head, [[str(value) for value in row]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = parser.parse_args()
    began = time.monotonic()
    found = measure(asked.kills, asked.count, asked.jobs, asked.seed)
    text = shown(found, asked.count)
    print(text)
    if asked.write:
        page.put("fleet-kills", text)
    print(f"{time.monotonic() - began:.0f} s on {machine()}", file=sys.stderr)
    if found.different:
        raise SystemExit("a store is not what it should be")


if __name__ == "__main__":
    main()
