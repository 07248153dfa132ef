"""What a store holds, in sums: by method, base and group, with what jobs over it measured."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from adaptzip.files.trees import Tree
from adaptzip.fleet.runs import Json
from adaptzip.fleet.store.index import Row
from adaptzip.fleet.store.layout import SUMMARY, WORK, summary_in, summary_of
from adaptzip.fleet.store.listing import Listing


def told(tree: Tree, listing: Listing) -> Json:
    """The sums of what a store holds, what is wrong with it, and what came of jobs."""
    rows = list(listing.rows.values())
    shared = sum(listing.shared.values())
    return {
        "adapters": len(rows),
        "adapter_bytes": listing.bytes,
        "shared_bytes": shared,
        "bytes": listing.bytes + shared,
        "parameters": sum(row.parameters for row in rows),
        "methods": _sums(rows, "method"),
        "bases": _sums(rows, "base"),
        "groups": _sums(rows, "group"),
        "missing": list(listing.missing),
        "unlisted": list(listing.unlisted),
        "damaged": dict(listing.damaged),
        "runs": [{"run": key, **found} for key, found in _summaries(tree)],
    }


def _sums(rows: Iterable[Row], field: str) -> list[Json]:
    parts: dict[Any, list[Row]] = {}
    for row in rows:
        parts.setdefault(getattr(row, field), []).append(row)
    return [
        {
            field: value,
            "adapters": len(some),
            "bytes": sum(row.bytes for row in some),
            "error": median(row.error for row in some),
            "worst_error": max(row.error for row in some),
        }
        for value, some in sorted(parts.items(), key=lambda part: (part[0] is None, str(part[0])))
    ]


def _summaries(tree: Tree) -> list[tuple[str, Json]]:
    """What came of the runs that are finished, whose notes the store still has."""
    runs = dict.fromkeys(file.split("/")[1] for file in tree.names(WORK) if f"/{SUMMARY}/" in file)
    found = {run: summary_in(tree.read(summary_of(run))) for run in runs}
    return [(run, told) for run, told in found.items() if told is not None]
