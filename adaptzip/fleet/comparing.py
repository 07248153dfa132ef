"""What sharing is worth: with a group's basis, by its mean alone, and by `svd` at the same bytes in total."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from adaptzip.core.basis import Basis
from adaptzip.core.budget import Budget
from adaptzip.core.projection import captured_energy, error_of_mean
from adaptzip.errors import CheckFailedError, without_warnings
from adaptzip.fitting.compression import make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Original, Request
from adaptzip.fleet import compressing, deciding, shared_banks, shared_bases
from adaptzip.fleet.artefacts import opened
from adaptzip.fleet.grouping import Group, groups_of
from adaptzip.fleet.runs import Json, Run, Stage
from adaptzip.fleet.store.layout import SUMMARY
from adaptzip.fleet.variants import shared_variants
from adaptzip.methods import REFERENCE

STAGE = "compare"
_MOST = 16
"""Adapters of a group, among members and among those held out, that are compressed to see what sharing is worth."""
_BATCH = 8


def stage_of_bases(run: Run) -> Stage:
    """Compress some adapters of each group, after `adaptzip.fleet.shared_bases`."""
    return _stage([_of_group(run, number, group) for number, group in enumerate(groups_of(run))])


def stage_of_bank(run: Run) -> Stage:
    """Compress some adapters, after `adaptzip.fleet.shared_banks`."""
    return _stage([_of_bank(run)])


def compare(run: Run, payload: Json) -> Json:
    """Bytes and errors of some adapters, in each way."""
    shared = opened(run.location, payload["file"])
    return {"rows": [_compared(run, place, shared, payload["part"]) for place in payload["places"]]}


def summary_of_bases(run: Run) -> Stage:
    """Say what came of it, after `stage_of_bases`."""
    return Stage(SUMMARY, f"{__name__}:told_of_bases", [{}])


def summary_of_bank(run: Run) -> Stage:
    """Say what came of it, after `stage_of_bank`."""
    return Stage(SUMMARY, f"{__name__}:told_of_bank", [{}])


def summary_of_adapters(run: Run) -> Stage:
    """Say what came of it, after `adaptzip.fleet.compressing`."""
    return Stage(SUMMARY, f"{__name__}:totals", [{}])


def told_of_bases(run: Run, payload: Json) -> Json:
    """What there is to say of every group."""
    rows = _rows(run, stage_of_bases(run))
    groups = enumerate(groups_of(run))
    return {"groups": [_with_worth(_of_group(run, n, group), rows[n], run) for n, group in groups]}


def told_of_bank(run: Run, payload: Json) -> Json:
    """What there is to say of a bank."""
    (rows,) = _rows(run, stage_of_bank(run)).values()
    return {"banks": [_with_worth(_of_bank(run), rows, run)]}


def totals(run: Run, payload: Json) -> Json:
    """What became of the adapters that `adaptzip.fleet.compressing` put into the store."""
    settings, used = run.plan.settings, set(run.result(compressing.CHOOSE)["used"])
    sizes = dict(settings["artefacts"])
    methods: dict[str, dict[str, float]] = {}
    alone = source_bytes = 0
    errors: list[float] = []
    means: list[float] = []
    for row in compressing.fitted_rows(run):
        if "error" in row:
            continue
        chosen = row["ways"][deciding.chosen(row, used, settings)]
        told_of = methods.setdefault(chosen["row"]["method"], {"adapters": 0, "bytes": 0})
        told_of["adapters"] += 1
        told_of["bytes"] += chosen["bytes"]
        alone, source_bytes = alone + row["ways"][deciding.ALONE]["bytes"], source_bytes + row["source_bytes"]
        errors.append(chosen["error"])
        if row["mean_error"] is not None:
            means.append(row["mean_error"])
    own = sum(int(one["bytes"]) for one in methods.values())
    shared = sum(sizes[file] for file in used)
    return {
        "source_bytes": source_bytes,
        "adapter_bytes": own,
        "shared_bytes": shared,
        "bytes": own + shared,
        "alone_bytes": alone,
        "artefacts": [{"file": file, "bytes": sizes[file], "used": file in used} for file in sorted(sizes)],
        "methods": methods,
        "error": _middle(errors),
        "worst_error": max(errors, default=None),
        "mean_error": _middle(means),
    }


def _compared(run: Run, place: int, shared: Basis, part: int) -> Json:
    settings = run.plan.settings
    request = Request(to=REFERENCE, max_error=settings["max_error"], effort="fast", base=settings["base"])
    source = load_source(run.plan.sources[place].path, request)
    alone = _made(source, request)
    found = shared_variants(source, request, shared)
    least = min((one.bytes for one in found), default=None)
    directions = shared.bank is None
    row: dict[str, Any] = {
        "captured": captured_energy(source.adapter.modules, shared).overall if directions else None,
        "mean_error": error_of_mean(source.adapter.modules, shared),
        "alone_bytes": None if alone is None else alone[0],
        "shared_bytes": least,
        "equal_error": None,
    }
    if least is not None:
        equal = _made(source, replace(request, max_error=None, budget=Budget(least + part, "bytes")))
        row["equal_error"] = None if equal is None else equal[1]
    return row


def _made(source: Original, request: Request) -> tuple[int, float] | None:
    """Bytes and error; None where that cannot be."""
    try:
        with without_warnings():
            made = make_from(source, request).compressed
    except CheckFailedError:
        return None
    return made.bytes, made.provenance.relative_error


def _of_group(run: Run, number: int, group: Group) -> dict[str, Any]:
    """A basis, and the places of its members and of those held out."""
    artefact = run.result(shared_bases.ARTEFACTS, number)
    return {
        "label": group.label,
        "base": group.base,
        "members": group.members,
        "held_out": group.held_out,
        "modules": len(group.shapes),
        "file": artefact["artefact"],
        "bytes": artefact["bytes"],
        "mean_bytes": artefact["mean_bytes"],
        "directions": max(artefact["sizes"].values()),
        "kept": artefact["kept"],
    }


def _of_bank(run: Run) -> dict[str, Any]:
    """A bank, likewise."""
    made = run.result(shared_banks.STAGE)
    shape = dict(zip(("vectors", "length"), made["shape"], strict=True))
    kept = {name: made[name] for name in ("members", "held_out", "bytes")}
    return {"file": made["artefact"], **shape, **kept}


def _stage(subjects: Sequence[Mapping[str, Any]]) -> Stage:
    payloads: list[Json] = []
    for number, subject in enumerate(subjects):
        places = [*_some(subject["held_out"]), *_some(subject["members"])]
        part = -(-subject["bytes"] // (len(subject["members"]) + len(subject["held_out"])))
        told = {"subject": number, "file": subject["file"], "part": part}
        payloads += [{**told, "places": places[i : i + _BATCH]} for i in range(0, len(places), _BATCH)]
    return Stage(STAGE, f"{__name__}:compare", payloads)


def _rows(run: Run, stage: Stage) -> dict[int, dict[int, Json]]:
    """What came of adapters, by their places, by subject."""
    rows: dict[int, dict[int, Json]] = {}
    for number, payload in enumerate(stage.payloads):
        found = run.fresh(STAGE, number)["rows"]
        rows.setdefault(payload["subject"], {}).update(zip(payload["places"], found, strict=True))
    return rows


def _with_worth(subject: Mapping[str, Any], rows: Mapping[int, Json], run: Run) -> Json:
    """What is told of a basis or bank, with what it is worth to its members and to others."""
    members, held_out = subject["members"], subject["held_out"]
    return {
        **subject,
        "members": len(members),
        "held_out": len(held_out),
        "max_error": run.plan.settings["max_error"],
        "of_members": _summary([rows[place] for place in members if place in rows]),
        "of_held_out": _summary([rows[place] for place in held_out if place in rows]),
    }


def _summary(rows: Sequence[Json]) -> Json:
    """Medians over some adapters, and how many meet the error with the basis."""
    names = ("captured", "mean_error", "alone_bytes", "shared_bytes", "equal_error")
    found: dict[str, Any] = {name: _middle(row[name] for row in rows) for name in names}
    least = min((row["captured"] for row in rows if row["captured"] is not None), default=None)
    reached = sum(row["shared_bytes"] is not None for row in rows)
    return {**found, "least_captured": least, "adapters": len(rows), "reached": reached}


def _middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _some(places: Sequence[int]) -> list[int]:
    """At most `_MOST`, evenly spread."""
    count = min(_MOST, len(places))
    return [places[i * len(places) // count] for i in range(count)]
