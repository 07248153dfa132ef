"""Names in a store: which of them a run may write, and what is to be done again of a run whose adapters are gone."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator

from adaptzip.errors import UsageError
from adaptzip.files.digest import digest
from adaptzip.fleet import compressing
from adaptzip.fleet.compressing import BEGUN
from adaptzip.fleet.runs import Json, Run, forget
from adaptzip.fleet.store.layout import SUMMARY, WORK, adapter_file, adapter_name, folded


def claim(run: Run, *, force: bool) -> None:
    """See, before a run writes anything, that it replaces nothing but what earlier runs over fleets put into the store,
    and note what it may replace. A run that was finished makes again what is gone, or replaced by now.

    Raises:
        UsageError: if it would replace something else, without `force`.
    """
    note, finished = run.note(BEGUN, 0), run.tree.size(run.note(compressing.TIDY, 0)) is not None
    if run.tree.size(note) is not None and not finished:
        return
    batches = _lost(run) if finished else set()
    if finished and not batches:
        return
    there = run.tree.sizes()
    files = {source.name: adapter_file(source.name) for source in run.plan.sources}
    found = {name: digest([run.tree.read(file)]) for name, file in files.items() if file in there}
    _check_apart(run, there)
    own: dict[str, set[str]] = {}
    for row in _published(run):
        own.setdefault(row["name"], set()).add(row["content"])
    taken = [name for name, content in found.items() if content not in own.get(name, ())]
    if taken and not force:
        more = f", and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UsageError(
            f"{run.location}: has an adapter {taken[0]!r} that no run over a fleet put there, or that has changed since"
            f"{more}",
            hint="choose another store, or replace it with `force=True`",
        )
    if finished:
        _do_again(run, batches)
    run.tree.write(note, json.dumps(found, sort_keys=True).encode())


def _check_apart(run: Run, there: Collection[str]) -> None:
    """Raises: UsageError: if some file systems would take the name of an adapter for another's in the store."""
    known = {folded(name): name for name in filter(None, map(adapter_name, there))}
    for source in run.plan.sources:
        other = known.get(folded(source.name), source.name)
        if other != source.name and adapter_file(source.name) not in there:
            raise UsageError(
                f"{run.location}: has an adapter {other!r}, whose name differs from {source.name!r} by case or "
                "accents' spelling alone",
                hint="some systems know no such difference: rename one",
            )


def _lost(run: Run) -> set[int]:
    """The batches of a run that is finished which have an adapter whose file is gone, or another by now."""
    there = run.tree.sizes()
    batches = set()
    for batch in range(len(compressing.publish_stage(run).payloads)):
        for row in run.fresh(compressing.PUBLISH, batch)["rows"]:
            file = adapter_file(row["name"])
            if there.get(file) != row["bytes"] or digest([run.tree.read(file)]) != row["content"]:
                batches.add(batch)
    return batches


def _do_again(run: Run, batches: Iterable[int]) -> None:
    """Let a run that was finished make some batches again."""
    for batch in batches:
        run.tree.remove(run.note(compressing.FIT, batch))
        run.tree.remove(run.note(compressing.PUBLISH, batch))
    for stage in (BEGUN, compressing.INDEX, SUMMARY, compressing.TIDY):
        run.tree.remove(run.note(stage, 0))
    forget()


def _published(run: Run) -> Iterator[Json]:
    """The rows of what runs over fleets put into the store, as far as their notes are there."""
    for file in run.tree.names(WORK):
        if f"/{compressing.PUBLISH}/" in file and file.endswith(".json"):
            yield from json.loads(run.tree.read(file))["rows"]
