"""Every adapter of a fleet compressed alone and with what the store's adapters share, and the choice between them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from adaptzip.adz.container.reader import open_adz
from adaptzip.adz.container.writer import packed
from adaptzip.core.basis import Basis
from adaptzip.core.budget import Budget
from adaptzip.core.comparing import diff
from adaptzip.core.compressed import Compressed
from adaptzip.core.projection import error_of_mean
from adaptzip.errors import AdaptzipError, CheckFailedError, RefusedError, UsageError, without_warnings
from adaptzip.fitting.compression import make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Original, Request
from adaptzip.fitting.starting import known_frames
from adaptzip.fleet.artefacts import best_basis, opened
from adaptzip.fleet.runs import Json, Run, Stage
from adaptzip.fleet.scanning import batches, failure_of, read_source
from adaptzip.fleet.store.index import Row, row_of, write_rows
from adaptzip.fleet.store.layout import ADAPTER, adapter_file
from adaptzip.fleet.verifying import ALLOWED, ROUNDING
from adaptzip.methods import REFERENCE, fittable, load
from adaptzip.restoring.reconstruction import reconstruct

ASSIGN, COUNT, FIT, CHOOSE, PUBLISH = "assign", "count", "fit", "choose", "publish"
INDEX, TIDY = "index", "tidy"
ALONE, SHARED = "alone", "shared"
BATCH = 16
"""Adapters of a task."""


def assign_stage(run: Run) -> Stage:
    """See which of the store's bases holds most of each adapter; no task where the store has none."""
    payloads = batches(len(run.plan.sources), BATCH) if run.plan.settings["bases"] else []
    return Stage(ASSIGN, f"{__name__}:assign", payloads)


def count_stage(run: Run) -> Stage:
    """Count the adapters of each basis."""
    return Stage(COUNT, f"{__name__}:count", [{}] if run.plan.settings["bases"] else [])


def fit_stage(run: Run) -> Stage:
    """Compress every adapter alone, and with its basis."""
    return Stage(FIT, f"{__name__}:fit", batches(len(run.plan.sources), BATCH))


def choose_stage(run: Run) -> Stage:
    """Decide which bases pay for themselves."""
    return Stage(CHOOSE, f"{__name__}:choose", [{}])


def publish_stage(run: Run) -> Stage:
    """Put what was chosen into its place."""
    return Stage(PUBLISH, f"{__name__}:publish", batches(len(run.plan.sources), BATCH))


def index_stage(run: Run) -> Stage:
    """Add all rows to the store's index."""
    return Stage(INDEX, f"{__name__}:index", [{}])


def tidy_stage(run: Run) -> Stage:
    """Remove what was kept for the choice."""
    return Stage(TIDY, f"{__name__}:tidy", [{}])


def assign(run: Run, payload: Json) -> Json:
    """The best basis of each adapter of a batch, and the share of its energy outside; None where none fits."""
    bases = [file for file, _ in run.plan.settings["bases"]]
    rows: list[Any] = []
    for source in run.plan.sources[payload["first"] : payload["last"]]:
        try:
            found = best_basis(read_source(run, source), run.location, bases)
        except (AdaptzipError, OSError):
            found = None  # Fitting tells what is wrong with it.
        rows.append(None if found is None else {"basis": found[0], "missed": found[1].missed})
    return {"rows": rows}


def count(run: Run, payload: Json) -> Json:
    """How many adapters each basis would be for."""
    adapters: dict[str, int] = {}
    for place in range(len(assign_stage(run).payloads)):
        for row in run.fresh(ASSIGN, place)["rows"]:
            if row is not None:
                adapters[row["basis"]] = adapters.get(row["basis"], 0) + 1
    return {"adapters": adapters}


def fit(run: Run, payload: Json) -> Json:
    """A batch of adapters, each compressed in up to two ways, read back, and kept for the choice."""
    places = range(payload["first"], payload["last"])
    assigned: Sequence[Any] = [None] * len(places)
    if run.plan.settings["bases"]:
        assigned = run.result(ASSIGN, payload["first"] // BATCH)["rows"]
    return {"rows": [_fitted(run, place, told) for place, told in zip(places, assigned, strict=True)]}


def choose(run: Run, payload: Json) -> Json:
    """Which bases are used: those that save more bytes than they take, or at equal bytes leave less error."""
    settings = run.plan.settings
    by_bytes = settings["budget"] is None
    gains: dict[str, float] = {}
    for row in _rows(run):
        if row.get(SHARED) is None:
            continue
        alone, shared = row[ALONE], row[SHARED]
        worse = float(alone["bytes"] - shared["bytes"]) if by_bytes else alone["error"] ** 2 - shared["error"] ** 2
        gain = max(0.0, worse) if by_bytes else worse
        gains[row["basis"]] = gains.get(row["basis"], 0.0) + gain
    cost = {file: float(size) if by_bytes else 0.0 for file, size in settings["bases"]}
    forced = settings["share"] == "always"
    return {"used": sorted(file for file, gain in gains.items() if forced or gain > cost[file]), "gains": gains}


def publish(run: Run, payload: Json) -> Json:
    """Write a batch of adapters under their names, and tell their rows."""
    settings, used = run.plan.settings, set(run.result(CHOOSE)["used"])
    rows: list[Json] = []
    for place, row in zip(
        range(payload["first"], payload["last"]), run.result(FIT, payload["first"] // BATCH)["rows"], strict=True
    ):
        if "error" in row:
            continue
        kind = chosen(row, used, settings)
        content = run.tree.read(_kept(run, place, kind))
        told = Row(**row[kind]["row"])
        run.tree.write(adapter_file(told.name), content)
        rows.append(asdict(told))
    return {"rows": rows}


def index(run: Run, payload: Json) -> Json:
    """Add the rows of all adapters to the index, as one segment of the run's own."""
    tasks = range(len(publish_stage(run).payloads))
    rows = [Row(**told) for place in tasks for told in run.fresh(PUBLISH, place)["rows"]]
    return {"segment": write_rows(run.tree, rows, run.key), "rows": len(rows)}


def tidy(run: Run, payload: Json) -> Json:
    """Remove the files that were kept for the choice."""
    kept = [file for file in run.tree.names(run.file(FIT, "")[:-1]) if file.endswith(ADAPTER)]
    for file in kept:
        run.tree.remove(file)
    return {}


def fitted_rows(run: Run) -> list[Json]:
    """What came of every adapter, in the order of the sources."""
    return list(_rows(run))


def chosen(row: Json, used: Collection[str], settings: Json) -> str:
    """Which of the two ways an adapter is stored in, where these bases are used."""
    if row.get(SHARED) is None or row["basis"] not in used:
        return ALONE
    if settings["share"] == "always" or settings["budget"] is not None:
        return SHARED
    return SHARED if row[SHARED]["bytes"] < row[ALONE]["bytes"] else ALONE


def request_of(settings: Json) -> Request:
    """The request that every adapter is compressed by, alone."""
    return Request(
        to=settings["to"],
        budget=Budget.of(settings["budget"]),
        max_error=settings["max_error"],
        extras=settings["extras"],
        base=settings.get("base"),
        effort=settings["effort"],
        base_name=settings.get("base_name"),
    )


def shared_variants(source: Original, request: Request, basis: Basis) -> list[Compressed]:
    """An adapter with a basis, in the ways that there are, that meet the request and make use of it: in frames of its
    directions, and as cores between them."""
    asked = replace(request, basis=basis)
    framed = replace(source, frames=known_frames(source.adapter, source.adapter, asked))
    cores = [name for name in fittable() if load(name).needs_basis and load(name).default_basis == "update"]
    found = []
    for method in (REFERENCE, *cores):
        try:
            with without_warnings():
                made = make_from(framed, replace(asked, to=method)).compressed
        except (CheckFailedError, RefusedError):
            continue
        if made.basis is not None and made.basis.hash == basis.reference.hash:
            found.append(made)
    return found


def _rows(run: Run) -> Iterator[Json]:
    for place in range(len(fit_stage(run).payloads)):
        yield from run.fresh(FIT, place)["rows"]


def _fitted(run: Run, place: int, assigned: Mapping[str, Any] | None) -> Json:
    source, settings = run.plan.sources[place], run.plan.settings
    try:
        request = request_of(settings)
        loaded = load_source(source.path, request)
        with without_warnings():
            alone = make_from(loaded, request).compressed
        row: dict[str, Any] = {ALONE: _keep(run, place, ALONE, loaded, alone, None)}
    except (AdaptzipError, OSError) as error:
        return {"error": failure_of(error)}
    row["source_bytes"] = loaded.bytes
    if assigned is not None:
        basis = opened(run.location, assigned["basis"])
        row |= {**assigned, "mean_error": error_of_mean(loaded.adapter.modules, basis)}
        found = shared_variants(loaded, _share_of_basis(run, request, loaded, assigned["basis"]), basis)
        if found:
            best = min(found, key=lambda one: (one.provenance.relative_error if request.budget else 0.0, one.bytes))
            row[SHARED] = _keep(run, place, SHARED, loaded, best, basis)
    return row


def _share_of_basis(run: Run, request: Request, source: Original, file: str) -> Request:
    """The request with a budget from which the adapter's part of the basis is taken."""
    if request.budget is None:
        return request
    count = run.result(COUNT)["adapters"][file]
    whole, size = request.budget.bytes_for(source.bytes), dict(run.plan.settings["bases"])[file]
    if whole is None:
        raise UsageError(
            "a budget of parameters says nothing of what is shared", hint="give it in bytes, or as a share"
        )
    return replace(request, budget=Budget(max(1, whole - -(-size // count)), "bytes"))


def _keep(run: Run, place: int, kind: str, source: Original, made: Compressed, basis: Basis | None) -> Json:
    """Read an adapter back from its bytes, keep these, and tell its row."""
    content = packed(made)
    again = open_adz(content)
    found = diff(source.adapter, reconstruct(again, base=run.plan.settings.get("base"), basis=basis))
    error, stated = found.relative_error or 0.0, made.provenance.relative_error
    whole = not (found.only_in_a or found.only_in_b) and (found.extras_equal or not source.adapter.extras)
    if not whole or error > stated * ALLOWED + ROUNDING:
        raise CheckFailedError(
            f"{run.plan.sources[place].path}: what was written comes back with an error of {error:.6g}, expected "
            f"{stated:.6g}"
        )
    run.tree.write(_kept(run, place, kind), content)
    name = run.plan.sources[place].name
    group = None if made.basis is None or basis is None else f"basis {made.basis.hash[:8]}"
    return {"bytes": len(content), "error": error, "row": asdict(row_of(name, again, content, group))}


def _kept(run: Run, place: int, kind: str) -> str:
    return run.file(FIT, f"{place:06d}-{kind}.adz")
