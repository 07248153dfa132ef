"""Runs that are measured: pieces of work in turn in one process, each in a process of its own, and whole commands.

A child process is told its pieces of work as JSON, gets everything ready, does each piece once, which is its first
call, and then all of them as often as asked, in an order that turns from round to round. This is its program, too.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

# Nothing here imports torch before a child does: how long that takes and what memory it needs is measured, too.


class Sample(NamedTuple):
    """Seconds of one run on the clock, and of processor time over all threads."""

    wall: float
    cpu: float


class Spread(NamedTuple):
    """The lower quartile, the median and the upper quartile of some runs."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Side:
    """One piece of work: its name, the task of `benchmarks.speed_tasks`, and that task's options."""

    name: str
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Child:
    """What a process was seen to take.

    Attributes:
        whole: from starting it to its end.
        peak: its largest resident set in bytes.
        first: the first call of each side, imports left out.
        later: the calls after that.
        found: what each side told of its result.
        modules: names of adaptzip's modules that were imported in the end, those on first use among them.
    """

    whole: Sample
    peak: float
    first: Mapping[str, Sample]
    later: Mapping[str, Sequence[Sample]]
    found: Mapping[str, Mapping[str, float]]
    modules: Sequence[str]


def spread(values: Sequence[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(low, median(values), high)


def ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> tuple[Spread, Spread]:
    """The pairs' ratios of wall time and of processor time."""
    pairs = list(zip(ours, theirs, strict=True))
    return spread([a.wall / b.wall for a, b in pairs]), spread([a.cpu / b.cpu for a, b in pairs])


def beyond(samples: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    """What each sample took more than the other of its pair."""
    return [Sample(a.wall - b.wall, a.cpu - b.cpu) for a, b in zip(samples, others, strict=True)]


def seconds(samples: Sequence[Sample]) -> tuple[Spread, Spread]:
    """Wall time and processor time."""
    return spread([sample.wall for sample in samples]), spread([sample.cpu for sample in samples])


def together(sides: Sequence[Side], rounds: int, modules: Sequence[str] = ()) -> Child:
    """All sides in one child process, in turn, which imports some modules first."""
    job = {"sides": [asdict(side) for side in sides], "rounds": rounds, "modules": modules}
    whole, output = command([sys.executable, "-m", "benchmarks.speed_runs", json.dumps(job)])
    told = json.loads(output.splitlines()[-1])
    child = Child(
        whole,
        told["peak"],
        {name: Sample(*sample) for name, sample in told["first"].items()},
        {name: [Sample(*sample) for sample in samples] for name, samples in told["later"].items()},
        told["found"],
        told["modules"],
    )
    for name, sample in child.first.items():
        print(
            f"  {name}: {sample.wall:.2f} s at first, {[round(s.wall, 3) for s in child.later[name]]}", file=sys.stderr
        )
    return child


def apart(sides: Sequence[Side], rounds: int, modules: Sequence[str] = ()) -> dict[str, list[Child]]:
    """Each side in a child process of its own every time, which imports some modules first."""
    return in_turn({side.name: partial(together, [side], 0, modules) for side in sides}, rounds)


def in_turn(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """What each side gives, done one after another in an order that turns from round to round."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(sides[name]())
    return found


def command(words: Sequence[str]) -> tuple[Sample, str]:
    """Run a command as a process of its own: what it took, and what it printed.

    Raises:
        CalledProcessError: if it fails.
    """
    start = time.perf_counter()
    # Installed packages have their bytecode, which this one's sources get when a process is first run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, words)
    return Sample(time.perf_counter() - start, usage.ru_utime + usage.ru_stime), output


def timed(work: Callable[[], Any]) -> tuple[Sample, Any]:
    """Do some work in this process: what it took, and its result."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu), result


def peak() -> float:
    """The largest resident set of this process in bytes.

    What the system counts for a process may begin with its parent's; the size of its own memory map does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _child(job: Mapping[str, Any]) -> dict[str, Any]:
    from benchmarks.speed_tasks import TASKS

    for module in job["modules"]:
        import_module(module)
    sides = [Side(**side) for side in job["sides"]]
    tasks = {side.name: TASKS[side.task](**side.options) for side in sides}
    first, found = {}, {}
    for name, task in tasks.items():
        first[name], result = timed(task.work)
        found[name] = task.tell(result)
        del result
    later = in_turn({name: partial(_sample, task.work) for name, task in tasks.items()}, job["rounds"])
    modules = [name for name in sys.modules if name.partition(".")[0] == "adaptzip"]
    return {"first": first, "later": later, "found": found, "peak": peak(), "modules": modules}


def _sample(work: Callable[[], Any]) -> Sample:
    return timed(work)[0]


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[1]))))
