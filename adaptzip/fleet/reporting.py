"""What a store holds, in sums: by method, base and group, with what jobs over it measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from statistics import median
from typing import Any

from adaptzip.files.trees import Tree
from adaptzip.fleet.runs import Json
from adaptzip.fleet.store.index import Row
from adaptzip.fleet.store.layout import WORK
from adaptzip.fleet.store.listing import rows_of

SUMMARY = "summary"
"""The stage whose one task tells what came of a run."""


def told(tree: Tree) -> Json:
    """The sums, and what is wrong with the store.

    Raises:
        AdaptzipError: if it cannot be read.
    """
    listing = rows_of(tree)
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
    files = [file for file in tree.names(WORK) if file.endswith(f"/{SUMMARY}/000000.json")]
    return [(file.split("/")[1], json.loads(tree.read(file))) for file in files]
