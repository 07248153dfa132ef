"""What is done with a whole fleet: a basis for each group of adapters, and every adapter compressed into a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path

from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.bases.artefact import BasisDtype
from adaptzip.core.budget import AnyBudget, Budget
from adaptzip.core.calling import public
from adaptzip.core.effort import Effort
from adaptzip.errors import CheckFailedError, UsageError, warn
from adaptzip.files.trees import tree_at
from adaptzip.fleet import comparing, compressing, grouping, scanning, shared_banks, shared_bases
from adaptzip.fleet.artefacts import artefacts_in
from adaptzip.fleet.claiming import claim
from adaptzip.fleet.engines import Engine
from adaptzip.fleet.running import FleetResult, begun, begun_with_artefacts, through
from adaptzip.fleet.runs import Json, Plan, Run, Stage
from adaptzip.fleet.sources import sources_of
from adaptzip.fleet.store.layout import SUMMARY, located
from adaptzip.fleet.variants import Sharing
from adaptzip.methods import REFERENCE


@public
def build_fleet_basis(
    sources: Sequence[str | Path],
    store: str | Path,
    *,
    size: int = 64,
    share: float = 0.9,
    hold_out: float = 0.1,
    groups: str | int = "auto",
    mean: bool = True,
    dtype: BasisDtype = "float16",
    max_error: float = 0.2,
    base: str | Path | None = None,
    engine: Engine | None = None,
    force: bool = False,
) -> FleetResult:
    """Build a basis for every group of a fleet's adapters that may share one, and put it into a store.

    Adapters of one base and shapes are put into groups by how far their updates lie in common directions. Each group's
    basis is that of `build_basis`, made by tasks that any number of workers may share, with the same bits whoever does
    them. A part of every group is held out, to measure what the basis holds of adapters that it has not seen.

    Args:
        sources: folders and files of adapters, folders of these, or patterns.
        store: a folder, or a bucket as fsspec names it.
        size: most directions of a module.
        share: of the members' energy that the basis is to hold, with as few directions as that takes.
        hold_out: share of each group that is held out.
        groups: how many, or "auto".
        mean: keep the members' mean update beside the directions.
        dtype: of the directions.
        max_error: at which the basis is compared with adapters that share nothing.
        base: folder of the base model, for adapters that cannot be read without it.
        engine: who does the work (`fleet_engine`); None for this process.
        force: do all of it again.

    Raises:
        UsageError: if an option makes no sense, or there are no adapters.
        CheckFailedError: if no group has enough adapters to share anything.
        OutputError: if the store cannot be written.

    Example:
        >>> try:
        ...     adaptzip.build_fleet_basis(["my-adapter"], "store")
        ... except adaptzip.AdaptzipError as error:
        ...     print(error)
        no group has the 4 adapters of one base and shapes that it takes to share anything
    """
    _check_share(share, "share")
    _check_held_out(hold_out)
    _check_share(max_error, "max_error")
    if size < 1:
        raise UsageError(f"size is {size}, expected at least 1")
    grouping.check_groups(str(groups))
    settings = {
        "size": size,
        "share": share,
        "hold_out": hold_out,
        "groups": str(groups),
        "mean": mean,
        "dtype": dtype,
        "max_error": max_error,
        "base": _text(base),
    }
    plan = Plan("basis", sources_of(sources, located(store)), settings)
    run = begun_with_artefacts(store, plan, force, engine, shared_bases.ARTEFACTS)
    stages: list[Callable[[Run], Stage]] = [scanning.stage, grouping.stage, shared_bases.directions_stage]
    stages += [shared_bases.artefacts_stage, comparing.stage_of_bases, comparing.summary_of_bases]
    stages += [shared_bases.tidy_stage]
    through(run, stages, engine)
    failed = _failed(run, grouping.STAGE)
    if not grouping.groups_of(run):
        for name, told in failed.items():
            warn(f"{name}: {told['message']}")
        raise CheckFailedError(
            f"no group has the {grouping.LEAST} adapters of one base and shapes that it takes to share anything",
            hint="name more adapters of one base model",
        )
    return FleetResult(run.location, run.key, len(run.plan.sources), failed, run.result(SUMMARY))


@public
def build_fleet_bank(
    sources: Sequence[str | Path],
    store: str | Path,
    *,
    rank: int | None = None,
    length: int | None = None,
    vectors: int | None = None,
    top_k: int | None = None,
    memory: float = 1.0,
    hold_out: float = 0.1,
    max_error: float = 0.5,
    seed: int = 0,
    base: str | Path | None = None,
    engine: Engine | None = None,
    force: bool = False,
) -> FleetResult:
    """Fit one bank of vectors to a fleet's adapters, and put it into a store.

    The bank is that of `build_bank`, which goes through the adapters in their order: one task, and memory that does not
    grow with their number. Looking at the adapters first, and at what the bank is worth to some of them afterwards, are
    tasks that any number of workers may share.

    Args:
        sources, store, hold_out, base, engine, force: as for `build_fleet_basis`.
        rank, length, vectors, top_k, memory, seed: as for `build_bank`.
        max_error: at which the bank is compared with adapters that share nothing.

    Raises:
        UsageError: if an option makes no sense, or there are no adapters.
        RefusedError: if no adapter changes anything.
        CheckFailedError: if no bank within `memory` can be.
        OutputError: if the store cannot be written.

    Example:
        >>> done = adaptzip.build_fleet_bank(["my-adapter"], "store", length=8, vectors=64, rank=2)
        >>> done.values["banks"][0]["vectors"]
        64
    """
    _check_held_out(hold_out)
    _check_share(max_error, "max_error")
    sizes = {"rank": rank, "length": length, "vectors": vectors, "top_k": top_k, "memory": memory}
    settings = {**sizes, "hold_out": hold_out, "max_error": max_error, "seed": seed, "base": _text(base)}
    plan = Plan("bank", sources_of(sources, located(store)), settings)
    run = begun_with_artefacts(store, plan, force, engine, shared_banks.STAGE)
    stages: list[Callable[[Run], Stage]] = [scanning.stage, shared_banks.stage, comparing.stage_of_bank]
    through(run, [*stages, comparing.summary_of_bank], engine)
    failed = _failed(run, shared_banks.STAGE)
    return FleetResult(run.location, run.key, len(run.plan.sources), failed, run.result(SUMMARY))


@public
def compress_fleet(
    sources: Sequence[str | Path],
    store: str | Path,
    *,
    to: str = REFERENCE,
    budget: AnyBudget | None = None,
    max_error: float | None = None,
    share: Sharing = "auto",
    extras: ExtrasMode = "lossless",
    effort: Effort = "fast",
    base: str | Path | None = None,
    base_name: str | None = None,
    engine: Engine | None = None,
    force: bool = False,
) -> FleetResult:
    """Compress every adapter of a fleet into a store, with the store's bases and banks where they pay for themselves.

    Each adapter is compressed alone, with the basis that holds most of it and with every bank, and read back. A basis
    or bank is used where its adapters save more than it takes, or, with a budget, have less error although it is paid
    out of theirs.

    Args:
        sources, store, base, engine: as for `build_fleet_basis`.
        to: the method of adapters that share nothing.
        budget: of each adapter, in bytes or as a share of its source; what is shared counts.
        max_error: of each adapter; 0.1 where neither this nor a budget is given.
        share: "auto" as said; "always" shares wherever the adapter can be coded so; "never" shares nothing.
        extras, base_name: as for `compress`.
        effort: as for `compress`.
        force: do all of it again, and replace adapters of these names that came into the store otherwise; those that
            earlier runs put there are replaced anyway.

    Raises:
        UsageError: if an option makes no sense, there are no adapters, or the store has others of these names.
        OutputError: if the store cannot be written.

    Example:
        >>> done = adaptzip.compress_fleet(["my-adapter"], "store", max_error=0.2)
        >>> done.adapters, dict(done.failed), done.values["worst_error"] <= 0.2
        (1, {}, True)
    """
    limit = Budget.of(budget)
    if limit is not None and limit.unit == "parameters" and share != "never":
        raise UsageError(
            f"the budget of {limit.told} says nothing of what adapters share",
            hint="give it in bytes, as 2KiB, or as a share of the source, as 20x, or add `share='never'`",
        )
    if max_error is not None:
        _check_share(max_error, "max_error")
    settings = {
        "to": to,
        "budget": None if limit is None else _told(limit),
        "max_error": max_error if limit is not None or max_error is not None else 0.1,
        "share": share,
        "extras": extras,
        "effort": effort,
        "base": _text(base),
        "base_name": base_name,
    }
    there = [] if share == "never" else [[one.file, one.bytes] for one in artefacts_in(tree_at(located(store)))]
    compressing.request_of(settings)
    plan = Plan("compress", sources_of(sources, located(store)), {**settings, "artefacts": there})
    run = begun(store, plan, force, engine)
    claim(run, force=force)
    stages = [compressing.assign_stage, compressing.count_stage, compressing.fit_stage, compressing.choose_stage]
    stages += [compressing.publish_stage, compressing.index_stage, comparing.summary_of_adapters]
    stages += [compressing.tidy_stage]
    through(run, stages, engine)
    rows = zip(run.plan.sources, compressing.fitted_rows(run), strict=True)
    failed = {source.name: row["error"] for source, row in rows if "error" in row}
    return FleetResult(run.location, run.key, len(run.plan.sources), failed, run.result(SUMMARY))


def _failed(run: Run, stage: str) -> dict[str, Json]:
    """What a stage's one task tells of adapters that take no part, by their names."""
    return {run.plan.sources[int(place)].name: told for place, told in run.result(stage)["failed"].items()}


def _check_held_out(share: float) -> None:
    if not 0 <= share <= 0.5:
        raise UsageError(f"hold_out is {share:g}, expected a share up to 0.5")


def _check_share(value: float, name: str) -> None:
    if not (isfinite(value) and 0 < value < 1):
        raise UsageError(f"{name} is {value:g}, expected a share between 0 and 1")


def _told(budget: Budget) -> str | float:
    return f"{int(budget.amount)}b" if budget.unit == "bytes" else float(budget.amount)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
