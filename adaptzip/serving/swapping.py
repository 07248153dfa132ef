"""A live model whose adapter is swapped while other threads run it, each of which sees one adapter whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.errors import UsageError
from adaptzip.restoring.live.guests import adapters_of
from adaptzip.restoring.live.loading import LoadReport, load_into
from adaptzip.restoring.reading import adapter_from


class Swapping:
    """A model with one adapter at a time; remembers which.

    `load_into(..., hotswap=True)` puts new factors into one layer after the other, so that a request that runs
    meanwhile would meet layers of both adapters. Here a swap waits for requests that run, and those that come
    meanwhile wait for it. Only what runs within `running` counts.

    Args:
        model: as for `load_into`.
        source: the first adapter.
        name: what the model calls the adapter, whichever it is.
        base, basis: how to read the source, as for `read`.

    Raises:
        CheckpointError, FormatError, BaseModelError, RefusedError, UsageError, CheckFailedError: as `load_into`.
    """

    def __init__(
        self,
        model: Any,
        source: str | Path | Adapter | Compressed,
        *,
        name: str = "default",
        base: str | Path | None = None,
        basis: str | Path | Basis | None = None,
    ) -> None:
        self._model, self._name = model, name
        self._gate = _Gate()
        self._adapter = adapter_from(source, base=base, basis=basis)
        self._label = _label_of(source)
        if name not in adapters_of(model):
            load_into(model, self._adapter, name=name)
        # What can't be swapped, such as a head, is refused here, and not where it is to make way for another.
        load_into(model, self._adapter, name=name, hotswap=True)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run the model within this block: its adapter stays until the end. Any number of threads may at once.

        Yields:
            The label of the adapter that it has.
        """
        with self._gate.shared():
            yield self._label

    def swap(
        self,
        source: str | Path | Adapter | Compressed,
        *,
        label: str | None = None,
        base: str | Path | None = None,
        basis: str | Path | Basis | None = None,
    ) -> LoadReport:
        """Put another adapter in the place of the one that the model has.

        The source is read before anything waits. Where the model does not take it, it keeps the one that it has.

        Args:
            label: what `running` tells of it; None takes the source's path, "" for one in memory.
            base, basis: how to read it.

        Raises:
            CheckpointError, FormatError, BaseModelError, RefusedError, CheckFailedError: as `load_into`.
            UsageError: likewise, or within `running` of the same thread, which would wait for itself.
        """
        adapter = adapter_from(source, base=base, basis=basis)
        with self._gate.alone():
            try:
                report = load_into(self._model, adapter, name=self._name, hotswap=True)
            except BaseException:
                # Another program's code, which may have stopped between two layers.
                load_into(self._model, self._adapter, name=self._name, hotswap=True)
                raise
            self._adapter, self._label = adapter, _label_of(source) if label is None else label
        return report


def _label_of(source: str | Path | Adapter | Compressed) -> str:
    return str(source) if isinstance(source, str | Path) else ""


class _Gate:
    """Many within at once, or one alone; they take turns, so that neither keeps the other out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._alone = 0, False
        self._comers, self._loners, self._turns = 0, 0, 0
        """Who waits to come in, who waits to be alone, and how many comers may go before the next who is alone."""
        self._depth: ContextVar[int] = ContextVar("depth", default=0)
        """How often a thread, or a task of asyncio, is inside."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside with others; a thread or task that is inside may come in again."""
        with self._changed:
            if self._depth.get() == 0:
                self._come()
            self._inside += 1
        self._depth.set(self._depth.get() + 1)
        try:
            yield
        finally:
            # Who leaves elsewhere than where it came in, as a web server's workers may, was never inside there.
            self._depth.set(max(0, self._depth.get() - 1))
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _come(self) -> None:
        self._comers += 1
        try:
            self._changed.wait_for(lambda: not self._alone and (self._loners == 0 or self._turns > 0))
        finally:
            self._comers -= 1
            self._turns = max(0, self._turns - 1)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside with nobody else, after those who waited to come in when the last was alone.

        Raises:
            UsageError: if this thread or task is inside already.
        """
        if self._depth.get():
            raise UsageError("an adapter was to be swapped within `running`, which it would wait for")
        with self._changed:
            self._loners += 1
            try:
                self._changed.wait_for(lambda: not self._alone and self._inside == 0 and self._turns == 0)
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
