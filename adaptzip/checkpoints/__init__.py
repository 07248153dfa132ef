"""Adapter checkpoints: one file or package per dialect, found by scanning this folder."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from adaptzip.checkpoints._base import Checkpoint, Dialect, Native, NativeModule, WriteOptions
from adaptzip.checkpoints._foreign import foreign
from adaptzip.errors import CheckpointError, UsageError

__all__ = ["Dialect", "Native", "NativeModule", "Checkpoint", "WriteOptions", "dialect", "dialects", "recognise"]


@cache
def dialects() -> dict[str, Dialect]:
    """Every dialect by its name, in sorted order."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    found: list[Dialect] = [import_module(f"{__name__}.{name}").DIALECT for name in names]
    return {d.name: d for d in sorted(found, key=lambda d: d.name)}


def dialect(name: str) -> Dialect:
    """The dialect called `name`.

    Raises:
        UsageError: if there is none.
    """
    known = dialects()
    if name not in known:
        raise UsageError(f"there is no checkpoint dialect {name!r}", hint=f"known: {', '.join(known)}")
    return known[name]


def recognise(source: Checkpoint) -> Dialect:
    """The dialect that is surest of `source`.

    Raises:
        RefusedError: if none knows it, but it looks like another program's adapter, which is named.
        CheckpointError: if it looks like no adapter at all, or if two are equally sure.
    """
    scores = {d.name: d.sniff(source) for d in dialects().values()}
    best = max(scores.values(), default=0.0)
    winners = [name for name, score in scores.items() if score == best]
    if best <= 0:
        raise foreign(source)
    if len(winners) > 1:
        raise CheckpointError(
            f"{source.weights}: could be {' or '.join(winners)}, expected exactly one checkpoint dialect"
        )
    return dialects()[winners[0]]
