"""What is in a store: whether it is sound, and in sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptzip.core.calling import public
from adaptzip.errors import CheckpointError, UsageError
from adaptzip.files.trees import tree_at
from adaptzip.fleet import reporting, verifying
from adaptzip.fleet.engines import Engine
from adaptzip.fleet.engines.ranked import Ranked
from adaptzip.fleet.running import FleetResult, begun, through
from adaptzip.fleet.runs import Json, Plan
from adaptzip.fleet.sources import Source, sources_of
from adaptzip.fleet.store.index import read_rows
from adaptzip.fleet.store.layout import located
from adaptzip.fleet.store.listing import Listing, rows_of


@public
def verify_fleet(
    store: str | Path,
    sources: Sequence[str | Path] = (),
    *,
    base: str | Path | None = None,
    engine: Engine | None = None,
) -> FleetResult:
    """Read every adapter of a store back from its file, and hold it against the index and the original.

    Args:
        store: a folder, or a bucket as fsspec names it.
        sources: originals, as for `compress_fleet`; those of the store's names are compared with what comes back.
        base: folder of the base model, for adapters that cannot be read without it.
        engine: who does the work (`fleet_engine`), but no ranks; None for this process.

    Raises:
        UsageError: if ranks are to share the work.
        CheckpointError, FormatError, RefusedError: if the store is not there, holds nothing, or cannot be read.
        OutputError: if the store cannot be written, where the work is noted.

    Example:
        >>> done = adaptzip.compress_fleet(["my-adapter"], "store", max_error=0.2)
        >>> adaptzip.verify_fleet("store", ["my-adapter"]).values["compared"]
        1
    """
    if isinstance(engine, Ranked):
        raise UsageError("ranks cannot share a verification, which is done anew each time", hint="use `jobs=`")
    location = located(store)
    listing = _listed(location)
    originals = {source.name: source.path for source in sources_of(sources)} if sources else {}
    # What the index says counts, also where a file was replaced since.
    marks = {name: row.content for name, row in {**listing.rows, **read_rows(tree_at(location))}.items()}
    wanted = tuple(Source(name, originals.get(name, ""), marks[name]) for name in listing.rows)
    if originals and marks.keys().isdisjoint(originals):
        raise UsageError(
            f"none of the {len(originals)} originals, such as {min(originals)!r}, has its name in {location}",
            hint="name the very folders that were compressed: they give adapters their names",
        )
    run = begun(location, Plan("verify", wanted, {"base": None if base is None else str(base)}), True, engine)
    through(run, [verifying.stage], engine)
    rows = dict(zip((source.name for source in wanted), verifying.told(run), strict=True))
    failed = {name: row["failed"] for name, row in rows.items() if "failed" in row}
    failed |= {name: _lacking("its row has no file") for name in listing.missing}
    failed |= {name: _lacking(told) for name, told in listing.damaged.items()}
    failed |= {name: _lacking("the store has none of this name") for name in originals if name not in marks}
    errors = {name: row["error"] for name, row in rows.items() if row.get("error") is not None}
    unsound = sum("failed" in row for row in rows.values())
    values: dict[str, Any] = {"sound": len(wanted) - unsound, "compared": len(errors)}
    values |= {"worst_error": max(errors.values(), default=None), "unlisted": list(listing.unlisted)}
    every = {*listing.rows, *listing.missing, *listing.damaged}
    return FleetResult(location, run.key, len(every), failed, values)


@public
def report_fleet(store: str | Path) -> Mapping[str, Any]:
    """What a store holds in sums, and what jobs over it measured, as JSON values (docs/reference/json.md).

    Args:
        store: a folder, or a bucket as fsspec names it.

    Raises:
        CheckpointError, FormatError, RefusedError: if the store is not there, holds nothing, or cannot be read.

    Example:
        >>> done = adaptzip.compress_fleet(["my-adapter"], "store", max_error=0.2)
        >>> adaptzip.report_fleet("store")["adapters"]
        1
    """
    location = located(store)
    return {"store": location, **reporting.told(tree_at(location), _listed(location))}


def _listed(location: str) -> Listing:
    """What a store holds.

    Raises:
        CheckpointError: if that is nothing, or there is none.
    """
    tree = tree_at(location)
    if not tree.there():
        raise CheckpointError(f"{location}: no such folder or bucket", hint="name a store that holds adapters")
    listing = rows_of(tree)
    if not (listing.rows or listing.missing or listing.damaged):
        raise CheckpointError(
            f"{location}: holds no adapters", hint="name a store that `adaptzip fleet compress` filled"
        )
    return listing


def _lacking(message: str) -> Json:
    return {"message": message, "hint": None, "exit_code": 1, "kind": "CheckFailedError"}
