"""How every job over a fleet goes: a run is begun, its stages are done one after another, and there is a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from adaptzip.errors import UsageError
from adaptzip.fleet.engines import Engine, fleet_engine
from adaptzip.fleet.engines.ranked import Ranked
from adaptzip.fleet.runs import Json, Plan, Run, Stage, forget
from adaptzip.fleet.store.layout import WORK, located


@dataclass(frozen=True)
class FleetResult:
    """What came of a job.

    Attributes:
        store: where it is.
        run: names the job's notes there.
        adapters: how many there were.
        failed: what is wrong with those that could not be done, by their names.
        values: what there is to say, as JSON values (docs/reference/json.md).

    Example:
        >>> done = adaptzip.compress_fleet(["my-adapter"], "store", max_error=0.2)
        >>> sorted(done.values["methods"])
        ['svd']
    """

    store: str
    run: str
    adapters: int
    failed: Mapping[str, Json]
    values: Json = field(default_factory=lambda: MappingProxyType({}))


def through(run: Run, stages: Sequence[Callable[[Run], Stage]], engine: Engine | None) -> None:
    """One stage after another; each knows its tasks when those before are done."""
    chosen = fleet_engine() if engine is None else engine
    try:
        for stage in stages:
            chosen.complete(run, stage(run))
    except BaseException as stop:
        if not isinstance(stop, Exception):
            stop.add_note(f"what was finished is kept in {run.location}; the same command goes on with it")
        raise
    finally:
        chosen.close()


def begun(store: str | Path, plan: Plan, force: bool, engine: Engine | None) -> Run:
    """The run of a plan; with `force` as if nothing of it had been done.

    Raises:
        UsageError: if workers would not see the store, or one of several ranks would take away what others have done.
    """
    location = located(store)
    if force and isinstance(engine, Ranked):
        raise UsageError(
            "ranks cannot begin anew, as each would take away what others have done",
            hint="leave `force=True` out, with another store, or run it with `jobs=` once",
        )
    if location.startswith("memory:") and engine is not None and not engine.here:
        raise UsageError(f"{location}: is the memory of this process, which no other sees", hint="use one job")
    if force:
        key = Run.key_of(plan)
        tree = Run(location, key).tree
        for file in tree.names(f"{WORK}/{key}"):
            tree.remove(file)
        forget()
    return Run.of(location, plan)


def begun_with_artefacts(store: str | Path, plan: Plan, force: bool, engine: Engine | None, stage: str) -> Run:
    """As `begun`, of a run that makes bases or banks; all of it is done again where one is gone that it made.

    Args:
        stage: whose tasks make one each.

    Raises:
        UsageError: as `begun`.
    """
    run = begun(store, plan, force, engine)
    made = [run.fresh(stage, number)["artefact"] for number in sorted(run.done(stage))]
    return begun(store, plan, True, engine) if any(run.tree.size(file) is None for file in made) else run
