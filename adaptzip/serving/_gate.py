"""Many within at once, or one alone; for threads, and for tasks of asyncio, which must not keep their loop waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType

from adaptzip.errors import UsageError

_ASKED_AGAIN = 0.002
"""Seconds between two looks of a task that waits."""


@dataclass(frozen=True, eq=False)
class _Visit:
    """Being inside once.

    Attributes:
        thread: in which it came.
    """

    thread: int


class Gate:
    """Who comes in and who wants to be alone take turns, so that neither keeps the other out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._alone = False
        self._comers, self._loners, self._turns = 0, 0, 0
        """Who waits to come in, who waits to be alone, and how many comers may go before the next who is alone."""
        self._visits: set[_Visit] = set()
        """Those that are inside."""
        self._own: ContextVar[tuple[_Visit, ...]] = ContextVar("own", default=())
        """Visits of a thread or task, and of the task that began it; some may be over, as they may end elsewhere."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside with others; a thread or task that is inside may come in again.

        Raises:
            UsageError: if it had to wait for another task of this thread, which could not go on.
        """
        with self._changed:
            if not self._within() and not self._open():
                self._check_free("`running` would wait for another task of its thread, which waits with it")
                self._wait()
            visit = self._come()
        try:
            yield
        finally:
            self._leave(visit)

    @asynccontextmanager
    async def shared_by_task(self) -> AsyncIterator[None]:
        """As `shared`, for a task of asyncio: others of its loop go on while it waits."""
        visit = await self._turn()
        try:
            yield
        finally:
            self._leave(visit)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside with nobody else, after those who waited to come in when the last was alone.

        Raises:
            UsageError: if this thread or task is inside already, or another task of this thread is.
        """
        with self._changed:
            if self._within():
                raise UsageError("an adapter was to be swapped within `running`, which it would wait for")
            self._check_free("an adapter was to be swapped while a task of the same thread is within `running`")
            self._loners += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._visits and self._turns == 0)
                self._alone = True
            finally:
                self._loners -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone, self._turns = False, self._comers
                self._changed.notify_all()

    def _open(self) -> bool:
        return not self._alone and (self._loners == 0 or self._turns > 0)

    def _within(self) -> bool:
        """Whether this thread or task is inside, or the task that began it still is."""
        return not self._visits.isdisjoint(self._own.get())

    def _come(self) -> _Visit:
        visit = _Visit(threading.get_ident())
        self._visits.add(visit)
        self._own.set((*(one for one in self._own.get() if one in self._visits), visit))
        return visit

    def _leave(self, visit: _Visit) -> None:
        with self._changed:
            self._visits.discard(visit)
            self._changed.notify_all()

    def _wait(self) -> None:
        self._comers += 1
        try:
            self._changed.wait_for(self._open)
        finally:
            self._waited()

    async def _turn(self) -> _Visit:
        """Wait for a turn, unless this task is inside already, and take it."""
        with self._changed:
            if self._within() or self._open():
                return self._come()
            self._comers += 1
        try:
            while True:
                await asyncio.sleep(_ASKED_AGAIN)
                with self._changed:
                    if self._open():
                        return self._come()
        finally:
            with self._changed:
                self._waited()
                self._changed.notify_all()

    def _waited(self) -> None:
        self._comers -= 1
        self._turns = max(0, self._turns - 1)

    def _check_free(self, what: str) -> None:
        """Raises: UsageError: if somebody is inside who came by this thread, and could not leave while it waits."""
        here = threading.get_ident()
        if any(visit.thread == here for visit in self._visits):
            raise UsageError(
                what, hint="write `async with swapping.running()`, and `await asyncio.to_thread(swapping.swap, ...)`"
            )


class Running:
    """A block within a gate, for `with` and for `async with`.

    Args:
        told: what the block gives, once it is within.
    """

    def __init__(self, gate: Gate, told: Callable[[], str]) -> None:
        self._gate, self._told = gate, told
        self._block: AbstractContextManager[None] | None = None
        self._task: AbstractAsyncContextManager[None] | None = None

    def __enter__(self) -> str:
        self._block = self._gate.shared()
        self._block.__enter__()
        return self._told()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._block is not None
        return self._block.__exit__(kind, error, trace)

    async def __aenter__(self) -> str:
        self._task = self._gate.shared_by_task()
        await self._task.__aenter__()
        return self._told()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._task is not None
        return await self._task.__aexit__(kind, error, trace)
