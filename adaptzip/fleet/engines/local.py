"""Tasks in this process, or in several on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from adaptzip.core.processes import share
from adaptzip.core.progress import Progress
from adaptzip.errors import CheckFailedError
from adaptzip.fleet.runs import Run, Stage, perform

_TRIES = 3
"""Times that a pool of processes is made anew although none of its tasks was done before one of them died."""


class Local:
    """Processes on this machine; with one job, this process. It remembers those that stand ready."""

    def __init__(self, jobs: int, progress: Progress) -> None:
        self._jobs, self._progress = jobs, progress
        self._pool: ProcessPoolExecutor | None = None

    def complete(self, run: Run, stage: Stage) -> None:
        self.do(run, stage, range(len(stage.payloads)))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def do(self, run: Run, stage: Stage, numbers: Sequence[int]) -> None:
        """Do those of some tasks that are not done."""
        done, wanted = run.done(stage.name), len(numbers)
        left = [number for number in numbers if number not in done]
        self._progress(stage.name, wanted - len(left), wanted)
        if self._jobs == 1 or len(left) <= 1:
            for place, number in enumerate(left, 1):
                perform(run, stage.name, stage.work, number, stage.payloads[number])
                self._progress(stage.name, wanted - len(left) + place, wanted)
            return
        fruitless = 0
        while left:
            rest = self._pooled(run, stage, left, wanted)
            fruitless = 0 if len(rest) < len(left) else fruitless + 1
            left = rest
            if fruitless >= _TRIES:
                raise CheckFailedError(
                    f"processes died {fruitless} times in a row in stage {stage.name!r}, with none of its tasks done",
                    hint="run it again with fewer `jobs=`, as they may have run out of memory",
                )

    def _pooled(self, run: Run, stage: Stage, numbers: Sequence[int], wanted: int) -> list[int]:
        """The tasks that are left when all are done, or a process died."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._jobs, get_context("spawn"), initializer=share, initargs=(self._jobs,)
            )
        try:
            running: list[Future[None]] = [
                self._pool.submit(perform, run, stage.name, stage.work, number, stage.payloads[number])
                for number in numbers
            ]
            for left, found in zip(reversed(range(len(numbers))), as_completed(running), strict=True):
                found.result()
                self._progress(stage.name, wanted - left, wanted)
        except BrokenProcessPool:
            self.close()
            done = run.done(stage.name)
            return [number for number in numbers if number not in done]
        except BaseException:
            self.close()
            raise
        return []
