"""Whether every adapter of a store comes back from its file as the index says."""

from __future__ import annotations

from typing import Any

from adaptzip.core.comparing import diff
from adaptzip.errors import AdaptzipError, CheckFailedError
from adaptzip.files.digest import digest
from adaptzip.fleet.artefacts import opened
from adaptzip.fleet.runs import Json, Run, Stage
from adaptzip.fleet.scanning import batches, failure_of, read_source
from adaptzip.fleet.sources import Source
from adaptzip.fleet.store.access import fetch
from adaptzip.fleet.variants import ALLOWED, ROUNDING
from adaptzip.restoring.reconstruction import reconstruct

STAGE = "verify"
BATCH = 32
"""Adapters of a task."""


def stage(run: Run) -> Stage:
    """Look at every adapter; the plan's sources are named as in the store, with the digest that the index has."""
    return Stage(STAGE, f"{__name__}:verify", batches(len(run.plan.sources), BATCH))


def verify(run: Run, payload: Json) -> Json:
    """A batch of adapters: the error against the original where there is one, and what is wrong."""
    return {"rows": [_verified(run, source) for source in run.plan.sources[payload["first"] : payload["last"]]]}


def told(run: Run) -> list[Json]:
    """What came of every adapter, in the order of the sources."""
    return [row for place in range(len(stage(run).payloads)) for row in run.fresh(STAGE, place)["rows"]]


def _verified(run: Run, source: Source) -> Json:
    row: dict[str, Any] = {"error": None}
    try:
        found = fetch(run.tree, source.name)
        if digest([found.content]) != source.mark:
            raise CheckFailedError("is another file than the index says", hint="`adaptzip store gc` makes its row anew")
        basis = None if found.artefact is None else opened(run.location, found.artefact)
        adapter = reconstruct(found.compressed, base=run.plan.settings["base"], basis=basis)
        if source.path:
            error = diff(read_source(run, source), adapter).relative_error
            stated = found.compressed.provenance.relative_error
            if error is None or error > stated * ALLOWED + ROUNDING:
                raise CheckFailedError(f"comes back with an error of {error}, and its file states {stated:.6g}")
            row["error"] = error
    except (AdaptzipError, OSError) as error:
        # Whatever is wrong with it, the check says no.
        return {"failed": {**failure_of(error), "exit_code": CheckFailedError.exit_code}}
    return row
