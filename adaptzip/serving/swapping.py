"""A live model whose adapter is swapped while other threads run it, each of which sees one adapter whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.restoring.live.guests import adapters_of
from adaptzip.restoring.live.loading import LoadReport, load_into
from adaptzip.restoring.reading import adapter_from
from adaptzip.serving._gate import Gate, Running


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
        self._gate = Gate()
        self._adapter = adapter_from(source, base=base, basis=basis)
        self._label = _label_of(source)
        if name not in adapters_of(model):
            load_into(model, self._adapter, name=name)
        # What can't be swapped, such as a head, is refused here, and not where it is to make way for another.
        load_into(model, self._adapter, name=name, hotswap=True)

    def running(self) -> Running:
        """Run the model within a block, `with` it or `async with` it: its adapter stays until the end. Any number of
        threads and tasks may at once.

        Returns:
            A block that gives the label of the adapter that the model has.
        """
        return Running(self._gate, lambda: self._label)

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
            source: the next adapter.
            label: what `running` tells of it; None takes the source's path, "" for one in memory.
            base, basis: how to read it.

        Raises:
            CheckpointError, FormatError, BaseModelError, RefusedError, CheckFailedError: as `load_into`.
            UsageError: likewise, or within `running` of the same thread or task, which would wait for itself.
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
