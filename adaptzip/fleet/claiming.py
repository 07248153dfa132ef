"""Names in a store: which of them a run may write, and what is to be done again of a run whose adapters are gone."""

from __future__ import annotations

import json
from collections.abc import Iterator

from adaptzip.errors import UsageError
from adaptzip.fleet import compressing
from adaptzip.fleet.runs import Json, Run, forget
from adaptzip.fleet.store.layout import SUMMARY, WORK, adapter_file

_BEGUN = "begun"


def claim(run: Run, *, force: bool) -> None:
    """See, before a run writes anything, that it replaces nothing but what earlier runs over fleets put into the store.

    Raises:
        UsageError: if it would, without `force`.
    """
    if run.tree.size(run.note(_BEGUN, 0)) is not None:
        return
    sizes = run.tree.sizes()
    files = {adapter_file(source.name): source.name for source in run.plan.sources}
    own: dict[str, set[int]] = {}
    for row in _published(run):
        own.setdefault(row["name"], set()).add(row["bytes"])
    taken = [name for file, name in files.items() if file in sizes and sizes[file] not in own.get(name, ())]
    if taken and not force:
        more = f", and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UsageError(
            f"{run.location}: has an adapter {taken[0]!r} that no run over a fleet put there{more}",
            hint="choose another store, or replace it with `force=True`",
        )
    run.tree.write(run.note(_BEGUN, 0), b"{}")


def mend(run: Run) -> None:
    """Let a run that was finished do again what makes adapters whose files are gone."""
    if run.tree.size(run.note(compressing.TIDY, 0)) is None:
        return
    there = run.tree.sizes()
    gone = [n for n, source in enumerate(run.plan.sources) if adapter_file(source.name) not in there]
    batches = {place // compressing.BATCH for place in gone if "error" not in _fitted(run, place)}
    for batch in batches:
        run.tree.remove(run.note(compressing.FIT, batch))
        run.tree.remove(run.note(compressing.PUBLISH, batch))
    for stage in (compressing.INDEX, SUMMARY, compressing.TIDY) if batches else ():
        run.tree.remove(run.note(stage, 0))
    forget()


def _fitted(run: Run, place: int) -> Json:
    row: Json = run.result(compressing.FIT, place // compressing.BATCH)["rows"][place % compressing.BATCH]
    return row


def _published(run: Run) -> Iterator[Json]:
    """The rows of what runs over fleets put into the store, as far as their notes are there."""
    for file in run.tree.names(WORK):
        if f"/{compressing.PUBLISH}/" in file and file.endswith(".json"):
            yield from json.loads(run.tree.read(file))["rows"]
