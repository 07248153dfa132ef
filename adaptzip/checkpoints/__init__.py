"""Adapter checkpoints: one file or package per dialect, found by scanning this folder and by entry points.

What the author of a dialect needs is here: `Dialect` and its capabilities `Reader`, `Writer` and `NativeWriter`, what
they are given (`Checkpoint`, `WriteOptions`, `Native`), and how their files are known (`Files`, `Signature`).
"""

from __future__ import annotations

from adaptzip.checkpoints._base import (
    BaseTensors,
    Checkpoint,
    Dialect,
    Files,
    NativeWriter,
    Reader,
    Signature,
    WriteOptions,
    Writer,
)
from adaptzip.checkpoints._foreign import foreign
from adaptzip.checkpoints._form import read_by, sureness, with_effects
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._losses import Loss, held
from adaptzip.checkpoints._native import Native, NativeModule
from adaptzip.checkpoints._registry import GROUP, conventions, dialect, dialects, opener, reader, readers, writer
from adaptzip.checkpoints._safetensors import Contents, SafetensorsWriter
from adaptzip.checkpoints._vetting import vet_numbers
from adaptzip.core.adapter import Adapter
from adaptzip.errors import CheckpointError

__all__ = [
    "GROUP",
    "PREFIX",
    "BaseTensors",
    "Checkpoint",
    "Contents",
    "Dialect",
    "Files",
    "Loss",
    "Native",
    "NativeModule",
    "NativeWriter",
    "Reader",
    "SafetensorsWriter",
    "Signature",
    "WriteOptions",
    "Writer",
    "conventions",
    "dialect",
    "dialects",
    "held",
    "opener",
    "read_by",
    "reader",
    "recognise",
    "resolved",
    "vet",
    "vet_numbers",
    "writer",
]


def recognise(source: Checkpoint) -> Reader:
    """The dialect that is surest of `source`.

    Raises:
        RefusedError: if none knows it, but it looks like another program's adapter, which is named.
        CheckpointError: if it looks like no adapter at all, or if two are equally sure.
        UsageError: as `dialects`, or if one is sure of it beyond all numbers from 0 to 1.
    """
    known = readers()
    scores = {name: sureness(found, source) for name, found in known.items()}
    best = max(scores.values(), default=0.0)
    winners = [name for name, score in scores.items() if score == best]
    if best <= 0:
        raise foreign(source)
    if len(winners) > 1:
        raise CheckpointError(
            f"{source.weights}: could be {' or '.join(winners)}, expected exactly one checkpoint dialect",
            hint=f"name the one that it is with `dialect=`, as in `dialect='{winners[0]}'`",
        )
    return known[winners[0]]


def vet(adapter: Adapter, where: object) -> None:
    """Refuse an adapter, as its dialect does, whose configuration or extras say what its factors do not.

    Args:
        adapter: as it was read, or decoded.
        where: what messages call the adapter.

    Raises:
        CheckpointError, RefusedError: as `Dialect.vet`.
    """
    conventions(adapter.meta.dialect).vet(adapter, where)


def resolved(adapter: Adapter) -> Adapter:
    """The adapter with its `effects`, as its dialect tells them from its extras and configuration.

    Raises:
        CheckpointError: as `Dialect.effects`.
        UsageError: if the dialect, of another package, does not tell what each extra does.
    """
    return with_effects(conventions(adapter.meta.dialect), adapter)
