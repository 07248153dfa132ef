"""Trying all seeds for the start of an adapter, while it can be stopped and goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from adaptzip.bases.starts import searching
from adaptzip.bases.starts.found import FoundStart
from adaptzip.bases.starts.hypotheses import drawn_before, predicted
from adaptzip.core.adapter import Adapter
from adaptzip.core.linalg import choose_device
from adaptzip.core.progress import Progress

_MINUTES = 90
_NOTED = 0.02
"""A part that takes fewer seconds was noted by an earlier run, and says nothing of the time that is left."""


@dataclass(frozen=True)
class SeedSearch:
    """How all seeds of 32 bits are tried, and who is told.

    Attributes:
        first, last: seeds from `first` to `last - 1`; all of them where `last` is None.
        note: a file by which a search that was stopped goes on; it is removed at the end.
        progress: called with a phase, which says the time that is left, and the share of the seeds that is done.
        told: called with the start, or None, and how many places were tried.
    """

    first: int = 0
    last: int | None = None
    note: Path | None = None
    progress: Progress | None = None
    told: Callable[[FoundStart | None, int], None] | None = None


def search_note(output: str | Path) -> Path:
    """Where a search for what becomes `output` notes how far it is."""
    return Path(f"{output}.search")


def search(adapter: Adapter, how: SeedSearch, device: str | torch.device) -> FoundStart | None:
    """The start of an adapter of which no seed is known, at the places where libraries would put its first module.

    Args:
        device: as for `compress`.
    """
    places = predicted(adapter.modules, drawn_before(adapter.extras))
    last = searching.ALL if how.last is None else how.last
    count, told, noted = last - how.first, monotonic(), 0
    began = told

    def tell(done: int) -> None:
        nonlocal began, told, noted
        spent, told = monotonic() - told, monotonic()
        if spent < _NOTED:
            began, noted = told, done
        left = (told - began) * (count - done) / (done - noted) if done > noted else None
        if how.progress is not None:
            said = "" if left is None else f", {_span(left)} left"
            how.progress(f"trying all seeds{said}", done, count)

    found = None
    if places:
        try:
            found = searching.search_start(
                adapter.modules, places, how.first, last,
                progress=tell, note=how.note, device=choose_device(device),
            )  # fmt: skip
        except BaseException as stop:
            if not isinstance(stop, Exception) and how.note is not None and how.note.exists():
                stop.add_note(f"the seeds that were tried are noted in {how.note}; the same command goes on after them")
            raise
    if how.note is not None:
        how.note.unlink(missing_ok=True)
    if how.told is not None:
        how.told(found, len(places))
    return found


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= _MINUTES else f"{seconds:.0f} s"
