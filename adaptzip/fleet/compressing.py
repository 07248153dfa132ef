"""Every adapter of a fleet compressed alone and with what the store's adapters share, and the choice between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.budget import Budget
from adaptzip.core.compressed import Compressed
from adaptzip.core.projection import error_of_mean
from adaptzip.errors import AdaptzipError, CheckFailedError, without_warnings
from adaptzip.files.digest import digest
from adaptzip.fitting.compression import make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Original, Request
from adaptzip.fleet import deciding
from adaptzip.fleet.artefacts import called, opened, suiting
from adaptzip.fleet.deciding import ALONE
from adaptzip.fleet.runs import Json, Run, Stage
from adaptzip.fleet.scanning import batches, failure_of, read_source
from adaptzip.fleet.store.index import Row, row_of, write_rows
from adaptzip.fleet.store.layout import ADAPTER, adapter_file, artefact_hash
from adaptzip.fleet.variants import read_back, shared_variants, smallest

ASSIGN, COUNT, FIT, CHOOSE, PUBLISH = "assign", "count", "fit", "choose", "publish"
BEGUN, INDEX, TIDY = "begun", "index", "tidy"
BATCH = 16
"""Adapters of a task."""


def assign_stage(run: Run) -> Stage:
    """See which of the store's bases and banks may suit each adapter; no task where the store has none."""
    payloads = batches(len(run.plan.sources), BATCH) if run.plan.settings["artefacts"] else []
    return Stage(ASSIGN, f"{__name__}:assign", payloads)


def count_stage(run: Run) -> Stage:
    """Count the adapters of each basis and bank."""
    return Stage(COUNT, f"{__name__}:count", [{}] if run.plan.settings["artefacts"] else [])


def fit_stage(run: Run) -> Stage:
    """Compress every adapter alone, and with what may suit it."""
    return Stage(FIT, f"{__name__}:fit", batches(len(run.plan.sources), BATCH))


def choose_stage(run: Run) -> Stage:
    """Decide what pays for itself."""
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
    """What may suit each adapter of a batch."""
    files = [file for file, _ in run.plan.settings["artefacts"]]
    adapters: list[Adapter | None] = []
    for source in run.plan.sources[payload["first"] : payload["last"]]:
        try:
            adapters.append(read_source(run, source))
        except (AdaptzipError, OSError):
            adapters.append(None)  # Fitting tells what is wrong with it.
    return {"rows": suiting(adapters, run.location, files)}


def count(run: Run, payload: Json) -> Json:
    """How many adapters each basis and bank would be for."""
    adapters: Counter[str] = Counter()
    for place in range(len(assign_stage(run).payloads)):
        for files in run.fresh(ASSIGN, place)["rows"]:
            adapters.update(files)
    return {"adapters": dict(adapters)}


def fit(run: Run, payload: Json) -> Json:
    """A batch of adapters, each compressed in several ways, read back, and kept for the choice."""
    places = range(payload["first"], payload["last"])
    suited: dict[int, Sequence[str]] = dict.fromkeys(places, ())
    if run.plan.settings["artefacts"]:
        suited = dict(zip(places, run.result(ASSIGN, payload["first"] // BATCH)["rows"], strict=True))
    # Those of one basis one after another, as few of them are kept open.
    rows = {
        place: _fitted(run, place, suited[place]) for place in sorted(places, key=lambda place: list(suited[place]))
    }
    return {"rows": [rows[place] for place in places]}


def choose(run: Run, payload: Json) -> Json:
    """Which bases and banks are used (`adaptzip.fleet.deciding`)."""
    return {"used": deciding.used(_rows(run), run.plan.settings)}


def publish(run: Run, payload: Json) -> Json:
    """Write a batch of adapters under their names, and tell their rows."""
    used, before = run.result(CHOOSE)["used"], run.result(BEGUN)
    fitted = run.result(FIT, payload["first"] // BATCH)["rows"]
    rows: list[Json] = []
    for place, row in zip(range(payload["first"], payload["last"]), fitted, strict=True):
        if "error" in row:
            continue
        way = deciding.chosen(row, used, run.plan.settings)
        content = run.tree.read(_kept(run, place, way))
        told = Row(**row["ways"][way]["row"])
        _put(run, told, content, before.get(told.name))
        rows.append(asdict(told))
    return {"rows": rows}


def _put(run: Run, row: Row, content: bytes, before: str | None) -> None:
    """Write an adapter, in the place of nothing but what was there when the run began.

    Raises:
        CheckFailedError: if somebody else put something there since.
    """
    file = adapter_file(row.name)
    if run.tree.size(file) is not None:
        found = digest([run.tree.read(file)])
        if found == row.content:
            return
        if found != before:
            raise CheckFailedError(
                f"{run.location}/{file}: was put there by somebody else while this ran",
                hint="run it again when nobody else writes to the store; `force=True` replaces what is there then",
            )
    run.tree.write(file, content)


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


def request_of(settings: Json) -> Request:
    """The request that every adapter is compressed by, alone."""
    return Request(
        to=settings["to"],
        budget=Budget.of(settings["budget"]),
        max_error=settings["max_error"],
        extras=settings["extras"],
        base=settings["base"],
        effort=settings["effort"],
        base_name=settings["base_name"],
    )


def _rows(run: Run) -> Iterator[Json]:
    for place in range(len(fit_stage(run).payloads)):
        yield from run.fresh(FIT, place)["rows"]


def _fitted(run: Run, place: int, suited: Sequence[str]) -> Json:
    """One adapter in every way, or what is wrong with it."""
    settings = run.plan.settings
    try:
        request = request_of(settings)
        source = load_source(run.plan.sources[place].path, request)
        with without_warnings():
            alone = make_from(source, request).compressed
        ways = {ALONE: _keep(run, place, ALONE, source, alone, None)}
    except (AdaptzipError, OSError) as error:
        return {"error": failure_of(error)}
    means: list[float | None] = []
    for file in suited:
        shared = opened(run.location, file)
        means.append(error_of_mean(source.adapter.modules, shared))
        found = shared_variants(source, _without_part(run, request, source, file), shared)
        if found:
            ways[file] = _keep(run, place, file, source, smallest(found, request), shared)
    room = None if request.budget is None else request.budget.bytes_for(source.bytes)
    return {"ways": ways, "source_bytes": source.bytes, "room": room, "mean_error": next(filter(None, means), None)}


def _without_part(run: Run, request: Request, source: Original, file: str) -> Request:
    """The request with a budget from which the adapter's part of a basis or bank is taken."""
    if request.budget is None:
        return request
    count, size = run.result(COUNT)["adapters"][file], dict(run.plan.settings["artefacts"])[file]
    room = request.budget.bytes_for(source.bytes) or 0
    return replace(request, budget=Budget(max(1, room - -(-size // count)), "bytes"))


def _keep(run: Run, place: int, way: str, source: Original, made: Compressed, shared: Basis | None) -> Json:
    """Read an adapter back from its bytes, keep these, and tell its row."""
    again, content, error = read_back(
        source.adapter, made, shared, run.plan.sources[place].path, run.plan.settings["base"]
    )
    run.tree.write(_kept(run, place, way), content)
    row = row_of(run.plan.sources[place].name, again, content, None if shared is None else called(way))
    return {"bytes": len(content), "error": error, "row": asdict(row)}


def _kept(run: Run, place: int, way: str) -> str:
    return run.file(FIT, f"{place:06d}-{way if way == ALONE else artefact_hash(way)}.adz")
