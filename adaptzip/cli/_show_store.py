"""What `adaptzip store` says: the adapters of a store, what was added, and what was tidied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adaptzip.cli import _text as text

if TYPE_CHECKING:
    from adaptzip.cli._many import Outcome
    from adaptzip.fleet.store.index import Row
    from adaptzip.fleet.store.tidying import Tidied

_HASH = 8
"""Letters of a hash that are shown."""


def listed(rows: Sequence[Row], values: Mapping[str, Any]) -> str:
    """The adapters as a table, and what they take together."""
    cells = [
        [
            *(row.name, row.group or "", row.method, text.size(row.bytes), text.number(row.error)),
            *((row.shared or "")[:_HASH], row.base or ""),
        ]
        for row in rows
    ]
    shared = f", and {text.size(values['shared_bytes'])} that they share" if values["shared_bytes"] else ""
    total = f"{text.count(len(rows), 'adapter')}, {text.size(values['bytes'])}{shared}"
    head = ["name", "group", "method", "size", "error", "shares", "base"]
    return f"{text.table(cells, head=head, left=(0, 1, 2, 5, 6))}\n\n{total}" if rows else total


def table(outcomes: Sequence[Outcome]) -> str:
    """What was added, as a table."""
    rows = [
        [found["name"], found["method"], text.size(found["bytes"]), text.number(found["error"])]
        for found in (outcome.values for outcome in outcomes)
    ]
    return text.table(rows, head=["name", "method", "size", "error"])


def summary(row: Mapping[str, Any]) -> str:
    """`1.2 KiB  (svd, error 0.1, shares 7QeVyHvr)`."""
    shares = f", shares {row['shared'][:_HASH]}" if row["shared"] else ""
    return f"{text.size(row['bytes'])}  ({row['method']}, error {text.number(row['error'])}{shares})"


def tidied(done: Tidied, would: str) -> str:
    """What was done, a line each; `would` stands before what was only planned."""
    removed = [(file, f"{text.size(size)}, {would}removed") for file, size in done.artefacts.items()]
    removed += [(draft, f"a draft, {would}removed") for draft in done.drafts]
    removed += [(name, f"a row without a file, {would}removed") for name in done.rows]
    made = [(name, f"a row, {would}made") for name in done.added]
    joined = [("index", f"{text.count(done.segments, 'segment')}, {would}joined")] if done.segments else []
    back = [(file, "was set aside by a run that was killed, put back") for file in done.put_back]
    return text.fields([*back, *removed, *made, *joined]) or "nothing to do"
