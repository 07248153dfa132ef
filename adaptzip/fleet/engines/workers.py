"""Processes that do tasks one after another: one that dies takes nothing with it but its task, which is done anew."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running

from adaptzip.core.processes import share
from adaptzip.errors import CheckFailedError

MOST_DEATHS = 5
"""Processes that may die at one task, or in a row before they are ready for any."""
_READY = "ready"
_SPAWN = get_context("spawn")

Call = tuple[Callable[..., None], tuple[object, ...]]
"""What is to be done: a function and its arguments."""


@dataclass
class _Worker:
    """One process; it remembers what it is at."""

    process: BaseProcess
    line: Connection
    ready: bool = False
    task: int | None = None


class Workers:
    """So many processes at most, which stand ready for more until they are closed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []

    def done(self, calls: Sequence[Call]) -> Iterator[int]:
        """Do them all, in any order; their places, each when it is done.

        Raises:
            CheckFailedError: if processes die again and again.
            Exception: what a call raised; others may be at work then.
        """
        waiting = list(range(len(calls)))[::-1]
        deaths = dict.fromkeys(waiting, 0)
        left, unready = len(calls), 0
        while left:
            self._fill(min(self._count, left))
            for worker in self._idle():
                if waiting:
                    _give(worker, waiting, calls)
            lines: dict[object, _Worker] = {worker.line: worker for worker in self._workers}
            for line in wait(list(lines)):  # type: ignore[arg-type]
                worker = lines[line]
                try:
                    told = worker.line.recv()
                except (EOFError, OSError):
                    unready = 0 if worker.ready else unready + 1
                    if worker.task is not None:
                        waiting.append(worker.task)
                        deaths[worker.task] += worker.ready
                    self._bury(worker)
                    _check_deaths(unready, max(deaths.values()))
                    continue
                if isinstance(told, BaseException):
                    raise told
                worker.ready, unready = True, 0
                if told != _READY and worker.task is not None:
                    yield worker.task
                    worker.task, left = None, left - 1

    def close(self) -> None:
        """End them all."""
        for worker in self._workers:
            worker.process.kill()
        for worker in list(self._workers):
            self._bury(worker)

    def _fill(self, count: int) -> None:
        while len(self._workers) < count:
            here, there = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_work, args=(there, self._count), daemon=True)
            with _deaf():
                process.start()
            there.close()
            self._workers.append(_Worker(process, here))

    def _idle(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.ready and worker.task is None]

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        worker.line.close()
        self._workers.remove(worker)


@contextmanager
def _deaf() -> Iterator[None]:
    """Let a process that is started begin without an ear for Ctrl-C, which is typed to the one that starts it; that
    one hears it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows.
        yield
        return
    # Python's own helper, which is started with the first process, lets the signal through when it is up.
    ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _give(worker: _Worker, waiting: list[int], calls: Sequence[Call]) -> None:
    """Give a worker the next call; one that has died meanwhile is found out when it is listened to."""
    worker.task = waiting.pop()
    try:
        worker.line.send(calls[worker.task])
    except OSError:
        worker.process.join()


def _check_deaths(unready: int, of_one: int) -> None:
    if unready >= MOST_DEATHS or of_one >= MOST_DEATHS:
        when = "before they were ready" if unready >= MOST_DEATHS else "at the same task"
        raise CheckFailedError(
            f"{MOST_DEATHS} processes died {when}",
            hint="run it again with fewer `jobs=`, as they may have run out of memory",
        )


def _work(line: Connection, jobs: int) -> None:
    """What a process does: say that it is ready, then one call after another, as long as anyone listens."""
    share(jobs)
    told: object = _READY
    try:
        while True:
            line.send(told)
            function, arguments = line.recv()
            told = _answer(function, arguments)
    except (EOFError, OSError):  # Nobody listens any more.
        return


def _answer(function: Callable[..., None], arguments: tuple[object, ...]) -> Exception | None:
    try:
        function(*arguments)
    except Exception as error:
        return _sendable(error)
    return None


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
