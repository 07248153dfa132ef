"""Tasks in this process, or in several on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from adaptzip.core.progress import Progress
from adaptzip.fleet.engines.workers import Call, Workers
from adaptzip.fleet.runs import Run, Stage, perform


class Local:
    """Processes on this machine; with one job, this process."""

    def __init__(self, jobs: int, progress: Progress) -> None:
        self._jobs, self._progress = jobs, progress
        self._workers = Workers(jobs)
        self.here = jobs == 1

    def complete(self, run: Run, stage: Stage) -> None:
        self.do(run, stage, range(len(stage.payloads)))

    def close(self) -> None:
        self._workers.close()

    def do(self, run: Run, stage: Stage, numbers: Sequence[int]) -> None:
        """Do those of some tasks that are not done."""
        done, wanted = run.done(stage.name), len(numbers)
        left = [number for number in numbers if number not in done]
        before = wanted - len(left)
        self._progress(stage.name, before, wanted)
        calls: list[Call] = [(perform, (run, stage.name, stage.work, n, stage.payloads[n])) for n in left]
        if self._jobs == 1 or len(calls) <= 1:
            for place, (function, arguments) in enumerate(calls, 1):
                function(*arguments)
                self._progress(stage.name, before + place, wanted)
            return
        for place, _ in enumerate(self._workers.done(calls), 1):
            self._progress(stage.name, before + place, wanted)
