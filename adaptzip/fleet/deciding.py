"""Which bases and banks a fleet uses, and in which way each adapter is stored: what is shared has to pay for itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from adaptzip.fleet.runs import Json

ALONE = "alone"
"""The way of an adapter that shares nothing; other ways are called by the file that they share."""


def used(rows: Iterable[Json], settings: Json) -> list[str]:
    """The files that are used.

    With an error to meet, these are the ones that together take fewest bytes, as far as leaving out one after another
    finds them. With a budget, what is shared is paid out of the budgets of all adapters that it suits: a basis is used
    by all of them, or a bank by all there are, where that leaves less squared error and keeps to the budgets.

    Args:
        rows: what `adaptzip.fleet.compressing` tells of every adapter.
        settings: its settings.
    """
    sizes: dict[str, int] = dict(settings["artefacts"])
    fitted = [row for row in rows if "error" not in row]
    there = sorted({way for row in fitted for way in row["ways"]} - {ALONE})
    forced = settings["share"] == "always"
    if settings["budget"] is not None:
        return _nearest(fitted, there, sizes, forced=forced)
    return there if forced else _cheapest(fitted, there, sizes)


def chosen(row: Json, used: Collection[str], settings: Json) -> str:
    """The way in which an adapter is stored, where these files are used."""
    ways: Mapping[str, Any] = row["ways"]
    shared = [way for way in ways if way in used]
    if settings["budget"] is not None:
        return min(shared, key=lambda way: ways[way]["error"], default=ALONE)
    if settings["share"] == "always":
        return min(shared, key=lambda way: ways[way]["bytes"], default=ALONE)
    # Of equal sizes the one that needs nothing else.
    return min([ALONE, *shared], key=lambda way: ways[way]["bytes"])


def _cheapest(rows: Sequence[Json], files: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    kept = list(files)
    while kept:
        saved = dict.fromkeys(kept, 0)
        for row in rows:
            each = {way: told["bytes"] for way, told in row["ways"].items() if way == ALONE or way in kept}
            best, second, *_ = sorted(each, key=lambda way: each[way]) + [ALONE]
            if best != ALONE:
                saved[best] += each[second] - each[best]
        worst = min(kept, key=lambda file: saved[file] - sizes[file])
        if saved[worst] > sizes[worst]:
            break
        kept.remove(worst)
    return kept


def _nearest(rows: Sequence[Json], files: Sequence[str], sizes: Mapping[str, int], *, forced: bool) -> list[str]:
    """Each file for all adapters that it suits, if it pays; of several for one adapter those that pay most together."""
    best: list[str] = []
    for file in files:
        alone = with_file = 0.0
        taken = room = 0
        for row in rows:
            way = row["ways"].get(file)
            if way is not None:
                alone, with_file = alone + row["ways"][ALONE]["error"] ** 2, with_file + way["error"] ** 2
                taken, room = taken + way["bytes"], room + row["room"]
        if (forced or with_file < alone) and taken + sizes[file] <= room:
            best.append(file)
    return _apart(rows, best)


def _apart(rows: Sequence[Json], files: Sequence[str]) -> list[str]:
    """Files no two of which are for one adapter, so that each is paid for: those that leave least error, one by one."""
    left = dict.fromkeys(files, 0.0)
    for row in rows:
        for file in left:
            if file in row["ways"]:
                left[file] += row["ways"][ALONE]["error"] ** 2 - row["ways"][file]["error"] ** 2
    found: list[str] = []
    for file in sorted(left, key=lambda file: (-left[file], file)):
        if not any(file in row["ways"] and any(other in row["ways"] for other in found) for row in rows):
            found.append(file)
    return sorted(found)
