"""`adaptzip compress`: the smallest file for a size or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _show_choice as show
from adaptzip.cli import _text as text
from adaptzip.cli._failures import stops_told
from adaptzip.cli._output import Output, Report
from adaptzip.cli._paths import check_file, default_output
from adaptzip.cli._requests import method_settings, planned_settings, request_of, text_fields
from adaptzip.files.inputs import check_apart

if TYPE_CHECKING:
    from adaptzip.bases.starts.found import FoundStart
    from adaptzip.fitting.requests import Original, Request
    from adaptzip.fitting.seed_search import SeedSearch


_NOTHING = 0.95
"""The relative error beyond which a file is hardly worth its bytes."""


def compress(
    source: options.Source,
    to: options.To = None,
    budget: options.Size = None,
    max_error: options.MaxError = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Give the input back bit for bit.")] = False,
    extras: options.KeepExtras = "lossless",
    setting: options.Settings = None,
    allocate: options.Allocate = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Do what a file that `adaptzip plan -o` wrote says.", metavar="FILE", show_default=False),
    ] = None,
    base: options.Base = None,
    basis: options.Basis = None,
    embed_basis: options.EmbedBasis = False,
    start: options.Start = None,
    search_starts: options.SearchStarts = False,
    effort: options.Effort = None,
    calibration: options.Calibration = None,
    text_field: options.TextField = None,
    pair_field: options.PairField = None,
    completion_field: options.CompletionField = None,
    base_name: options.BaseName = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write.  [default: beside the source, under its name with .adz]",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference/--no-reference", help="Say what the reference method makes of the same bytes.")
    ] = True,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compress a LoRA adapter into one .adz file.

    Writes FILE; without -o this is lora.adz beside lora.safetensors, and my-adapter.adz beside the folder
    my-adapter/. With neither a budget nor an error, the file is the smallest whose relative error is at most
    0.1. Beside any other method's result it says what svd, the reference, makes of the same bytes.

    \b
    Examples:
      adaptzip compress my-adapter/
      adaptzip compress my-adapter/ --budget 64KiB -o small.adz
      adaptzip compress lora.safetensors --to vblora --budget 50k
      adaptzip compress my-adapter/ --to auto --budget 100x
      adaptzip compress my-adapter/ --plan plan.json
      adaptzip compress my-adapter/ --lossless -o exact.adz
      adaptzip compress my-adapter/ --search-starts
    """
    from adaptzip.restoring.opening import source_bytes

    size = source_bytes(source)
    target = output or default_output(source)
    sink = Output(as_json, quiet, verbose)
    settings: dict[str, Any] = {
        "lossless": lossless,
        "extras": extras,
        "alpha": alpha,
        "config": config,
        "dialect": dialect,
        "device": device,
        "seed": seed,
        "base": base,
        "basis": basis,
        "embed_basis": embed_basis,
        "start": start,
        "search_starts": search_starts,
        "calibration": calibration,
        "base_name": base_name,
        **text_fields(calibration, text_field, pair_field, completion_field),
    }
    chosen: dict[str, Any] = {
        "to": to, "budget": budget, "max_error": max_error, "effort": effort, "allocate": allocate,
    }  # fmt: skip
    if plan is None:
        settings |= {key: value for key, value in chosen.items() if value is not None}
        settings["options"] = method_settings(to, setting or [])
    else:
        settings |= planned_settings(plan, {**chosen, "set": setting, "lossless": lossless or None})
    inputs: dict[str, object] = {
        "source": source, "config": config, "plan": plan, "base": base, "basis": basis, "calibration": calibration,
    }  # fmt: skip
    check_apart(target, **inputs)
    if not dry_run:
        check_file(target, force=force, **inputs)
    request = request_of(settings)
    limits = (None if request.budget is None else request.budget.bytes_for(size), request.max_error)
    with sink.warnings(), stops_told(), sink.progress() as report:
        request = replace(request, search_starts=_search(target, report, sink)) if search_starts else request
        loaded = _load(source, request, plan)
        if dry_run:
            found = _foreseen(loaded, request)
            _preview(show.result(found, target, size, dry_run=True), limits, sink)
            return
        made = _made(loaded, request, target, sink, report, force=force, reference=reference)
    values = show.result(made, target, size, dry_run=False)
    _tell(values, sink)
    sink.wrote(target, show.summary(values, *limits), values)


def _search(target: Path, report: Report, sink: Output) -> SeedSearch:
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
    source: Original, request: Request, target: Path, sink: Output, report: Report, *, force: bool, reference: bool
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


def _preview(values: Mapping[str, Any], limits: tuple[float | None, float | None], sink: Output) -> None:
    told = [f"would write {values['path']}  {show.summary(values, *limits)}", show.counts(values)]
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
        sink.note(_tried(values))
    if values["reference"]:
        sink.note(show.reference(values))
    if values["basis_bytes"] is not None:
        sink.note(
            f"not counted: the basis, {text.size(values['basis_bytes'])}, which is needed to get the adapter back"
        )


def _tried(values: Mapping[str, Any]) -> str:
    """The methods that were considered; "" where one was named."""
    return show.tried(values["tried"] or (), values["source_bytes"], weighted=show.weighted(values))
