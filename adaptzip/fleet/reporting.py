"""What a store holds, in sums: by method, base and group, with what jobs over it measured."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from adaptzip.files.trees import Tree
from adaptzip.fleet.compressing import PUBLISH
from adaptzip.fleet.runs import Json
from adaptzip.fleet.store.index import Row
from adaptzip.fleet.store.layout import SUMMARY, WORK, artefact_hash, summary_in, summary_of
from adaptzip.fleet.store.listing import Listing


def told(tree: Tree, listing: Listing) -> Json:
    """The sums of what a store holds, what is wrong with it, and what came of jobs."""
    rows = list(listing.rows.values())
    shared, used = sum(listing.shared.values()), {row.shared for row in rows}
    return {
        "adapters": len(rows),
        "adapter_bytes": listing.bytes,
        "shared_bytes": shared,
        "bytes": listing.bytes + shared,
        "unused_bytes": sum(size for file, size in listing.shared.items() if artefact_hash(file) not in used),
        "parameters": sum(row.parameters for row in rows),
        "methods": _sums(rows, "method"),
        "bases": _sums(rows, "base"),
        "groups": _sums(rows, "group"),
        "missing": list(listing.missing),
        "unlisted": list(listing.unlisted),
        "damaged": dict(listing.damaged),
        "runs": [{"run": key, **found} for key, found in _summaries(tree, listing)],
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


def _summaries(tree: Tree, listing: Listing) -> list[tuple[str, Json]]:
    """What came of the runs that are finished, whose notes the store still has, as far as that is there."""
    notes = tree.names(WORK)
    found: list[tuple[str, Json]] = []
    for run in dict.fromkeys(file.split("/")[1] for file in notes if f"/{SUMMARY}/" in file):
        told = summary_in(tree.read(summary_of(run)))
        if told is None:
            continue
        for kind in ("groups", "banks"):
            if kind in told:
                told[kind] = [one for one in told[kind] if one["file"] in listing.shared]
        if "methods" in told:
            published = [file for file in notes if file.startswith(f"{WORK}/{run}/{PUBLISH}/")]
            told["current"] = sum(_current(tree, file, listing) for file in published)
        found.append((run, told))
    return found


def _current(tree: Tree, note: str, listing: Listing) -> int:
    """How many of the adapters that a note tells of are in the store as they were published."""
    rows = (summary_in(tree.read(note)) or {}).get("rows", [])
    there = (listing.rows.get(row["name"]) for row in rows)
    return sum(found is not None and found.content == row["content"] for row, found in zip(rows, there, strict=True))
