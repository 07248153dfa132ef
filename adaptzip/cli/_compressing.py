"""What `adaptzip compress` does with one source, and with several."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptzip.cli import _many as many
from adaptzip.cli import _show_choice as show
from adaptzip.cli import _text as text
from adaptzip.cli._failures import stops_told
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file, default_output
from adaptzip.cli._requests import request_of
from adaptzip.core.progress import Progress, silent
from adaptzip.errors import UsageError
from adaptzip.files.inputs import check_apart

if TYPE_CHECKING:
    from adaptzip.bases.starts.found import FoundStart
    from adaptzip.fitting.requests import Original, Request
    from adaptzip.fitting.seed_search import SeedSearch

_NOTHING = 0.95
"""The relative error beyond which a file is hardly worth its bytes."""


@dataclass(frozen=True)
class Job:
    """How sources are compressed.

    Attributes:
        settings: the fields of a request, the budget as it was written.
        plan: the plan that they come from, or None.
    """

    settings: Mapping[str, Any]
    plan: Path | None
    force: bool = False
    reference: bool = True
    dry_run: bool = False

    def inputs(self, source: Path) -> dict[str, object]:
        """What is read, as for `check_apart`."""
        named = {name: self.settings[name] for name in ("config", "base", "basis", "calibration")}
        return {"source": source, "plan": self.plan, **named}


def one(source: Path, target: Path, how: Job, sink: Output) -> None:
    """Compress one source, and tell everything about it."""
    _check(source, target, how)
    from adaptzip.restoring.opening import source_bytes

    size = source_bytes(source)
    request = request_of(how.settings)
    limits = show.Limits.of(request, size)
    with sink.warnings(), stops_told(), sink.progress() as report:
        if request.search_starts:
            request = replace(request, search_starts=_search(target, report, sink))
        loaded = _load(source, request, how.plan)
        if how.dry_run:
            found = _foreseen(loaded, request)
            _preview(show.result(found, target, size, dry_run=True), limits, sink)
            return
        made = _made(loaded, request, target, sink, report, force=how.force, reference=how.reference)
    values = show.result(made, target, size, dry_run=False)
    _tell(values, sink)
    sink.wrote(target, show.summary(values, limits), values)


def _check(source: Path, target: Path, how: Job) -> None:
    """Refuse an output before the work for it begins."""
    check_apart(target, **how.inputs(source))
    if not how.dry_run:
        check_file(target, force=how.force, **how.inputs(source))


def several(sources: Sequence[Path], folder: Path | None, how: Job, jobs: int, sink: Output) -> None:
    """Compress several sources: into a folder, in which what is done is noted, or each beside itself."""
    if how.settings["search_starts"]:
        raise UsageError("all seeds are searched for one adapter", hint="name one source with --search-starts")
    request_of(how.settings)
    if folder is None:
        targets = {source: default_output(source) for source in sources}
        note = None
    else:
        targets = many.targets_in(folder, sources, lambda source: default_output(source).name)
        note = many.journal_of(folder, "compress", {**how.settings, "plan": how.plan})
    place = many.Folder.of(targets, None if how.dry_run else note, source_files, force=how.force)
    work = partial(_worked, targets, how, place.replaced())
    with sink.warnings(), stops_told():
        outcomes = many.run(work, sources, sink, jobs=jobs, place=None if folder is None else place)
    many.finish(outcomes, _table, sink)


def source_files(source: Path) -> tuple[Path, ...]:
    """The files of an adapter."""
    from adaptzip.restoring.opening import weight_files

    return weight_files(source)


def _worked(targets: Mapping[Path, Path], how: Job, own: Collection[Path], source: Path) -> dict[str, Any]:
    """Compress one of several sources, perhaps in a process of its own; what there is to say of it.

    Args:
        own: sources whose output an earlier run made, which is replaced.
    """
    target = targets[source]
    how = replace(how, force=how.force or source in own)
    _check(source, target, how)
    from adaptzip.restoring.opening import source_bytes

    size = source_bytes(source)
    request = request_of(how.settings)
    loaded = _load(source, request, how.plan)
    if how.dry_run:
        return show.result(_foreseen(loaded, request), target, size, dry_run=True)
    made = _made(loaded, request, target, Output(quiet=True), silent, force=how.force, reference=how.reference)
    return show.result(made, target, size, dry_run=False)


def _table(outcomes: Sequence[many.Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        values = outcome.values
        error = values["relative_error"] if values["weighted_error"] is None else values["weighted_error"]
        cells = [values["method"], text.size(values["bytes"]), text.ratio(values["source_bytes"], values["bytes"])]
        rows.append([values["path"], *cells, text.number(error), "as before" if outcome.skipped else ""])
    return text.table(rows, head=["file", "method", "size", "ratio", "error", ""])


def _search(target: Path, report: Progress, sink: Output) -> SeedSearch:
    """All seeds, noted beside the output; what is found is told in the words that find it at once."""
    from adaptzip.fitting.seed_search import SeedSearch, search_note

    def told(found: FoundStart | None, places: int) -> None:
        if found is not None:
            offset = min(place.offset for place in found.places.values())
            given = f"--start {found.seed}:{offset}"
            sink.note(f"found seed {found.seed} at {offset:,}: {given} finds it at once")
        elif places:
            sink.note(f"no seed gives the adapter's first numbers at {text.count(places, 'place')} of the stream")
        else:
            sink.note("no module looks like random numbers that it began with: no seed was tried")

    return SeedSearch(note=search_note(target), progress=report, told=told)


def _load(source: Path, request: Request, plan: Path | None) -> Original:
    from adaptzip.checkpoints._base_name import warn_of_local_name
    from adaptzip.fitting.loading import load_source

    loaded = load_source(source, request)
    warn_of_local_name(loaded.adapter.meta.base_model)
    if plan is not None and request.ranks is not None:
        from adaptzip.fitting.plan_files import check_modules

        check_modules(plan, request.ranks, loaded.adapter.modules)
    return loaded


def _made(
    source: Original, request: Request, target: Path, sink: Output, report: Progress, *, force: bool, reference: bool
) -> dict[str, Any]:
    """Compress, write, and hold the result against the reference."""
    from adaptzip.adz.container import writer
    from adaptzip.fitting.appraisal import appraise
    from adaptzip.fitting.compression import job_of, make_from
    from adaptzip.fitting.measuring import captured

    job = job_of(source, request)
    share = None if job is None else captured(job)
    if share is not None:
        sink.note(f"the basis captures {100 * share:.3g} % of the update's energy")
    made = make_from(source, request, report, job=job)
    writer.write(made.compressed, target, force=force)
    found = appraise(source, made, request, report, reference=reference)
    return show.made(made, found, captured=share, basis=request.basis)


def _foreseen(source: Original, request: Request) -> dict[str, Any]:
    """What would come of it: exactly for --lossless, which needs no search, else as the method predicts."""
    from adaptzip.fitting.appraisal import Appraisal
    from adaptzip.fitting.choosing import foresee
    from adaptzip.fitting.compression import make_from

    if request.lossless:
        return show.made(make_from(source, request), Appraisal())
    return show.foreseen(foresee(source, request), weighted=bool(source.sensitivities))


def _preview(values: Mapping[str, Any], limits: show.Limits, sink: Output) -> None:
    told = [f"would write {values['path']}  {show.summary(values, limits)}", show.counts(values)]
    told += [show.started(values), _tried(values)]
    sink.result(values, lambda: "\n".join(filter(None, told)))


def _tell(values: Mapping[str, Any], sink: Output) -> None:
    """What is said on stderr of a result besides its summary."""
    sink.detail(show.counts(values))
    if values["relative_error"] > _NOTHING:
        sink.warning("hardly anything of the update is left at this size")
    if values["start"]:
        sink.note(show.started(values))
    if values["tried"]:
        sink.note(lambda: _tried(values))
    if values["reference"]:
        sink.note(show.reference(values))
    if values["basis_bytes"] is not None:
        sink.note(
            f"not counted: the basis, {text.size(values['basis_bytes'])}, which is needed to get the adapter back"
        )


def _tried(values: Mapping[str, Any]) -> str:
    """The methods that were considered; "" where one was named."""
    return show.tried(values["tried"] or (), values["source_bytes"], weighted=show.weighted(values))
