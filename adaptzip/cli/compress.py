"""`adaptzip compress`: the smallest file for a size or an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _show_choice as show
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output, Report
from adaptzip.cli._paths import check_file, default_output
from adaptzip.cli._requests import method_settings, planned_settings, text_fields
from adaptzip.files.inputs import check_apart

if TYPE_CHECKING:
    from adaptzip.core.compressed import Compressed
    from adaptzip.fitting.requests import Original, Request
    from adaptzip.fitting.running import Made


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
    """
    from adaptzip.restoring.reading import source_bytes

    size = source_bytes(source)
    target = output or default_output(source)
    sink = Output(as_json, quiet, verbose)
    settings: dict[str, Any] = {
        "extras": extras,
        "alpha": alpha,
        "config": config,
        "device": device,
        "seed": seed,
        "base": base,
        "basis": basis,
        "embed_basis": embed_basis,
        "calibration": calibration,
        "base_name": base_name,
        **text_fields(calibration, text_field, pair_field, completion_field),
    }
    chosen: dict[str, Any] = {"to": to, "budget": budget, "max_error": max_error, "allocate": allocate}
    if plan is None:
        settings |= {key: value for key, value in chosen.items() if value is not None}
        settings["options"] = method_settings(to, setting or [])
    else:
        settings |= planned_settings(plan, {**chosen, "set": setting, "lossless": lossless or None})
    inputs: dict[str, object] = {
        "source": source, "config": config, "plan": plan, "base": base, "basis": basis, "calibration": calibration,
    }  # fmt: skip
    check_apart(target, **inputs)
    if dry_run:
        with sink.warnings():
            _preview(source, target, size, lossless=lossless, settings=settings, plan=plan, sink=sink)
        return
    check_file(target, force=force, **inputs)
    with sink.warnings(), sink.progress() as report:
        values = (
            _exact(source, target, settings, force=force)
            if lossless
            else _fitted(source, target, settings, plan, sink, report, force=force, reference=reference)
        )
    values = {
        "path": str(target),
        **values,
        "bytes": target.stat().st_size,
        "source_bytes": size,
        "ratio": size / target.stat().st_size,
        "dry_run": False,
    }
    sink.detail(show.counts(values))
    if values["tried"]:
        sink.note(show.tried(values["tried"], size, weighted=values["weighted_error"] is not None))
    if values["reference"]:
        sink.note(show.reference(values))
    if values["basis_bytes"] is not None:
        sink.note(
            f"not counted: the basis, {text.size(values['basis_bytes'])}, which is needed to get the adapter back"
        )
    sink.wrote(target, show.summary(values), values)


def _exact(source: Path, target: Path, settings: dict[str, Any], *, force: bool) -> dict[str, Any]:
    from adaptzip.fitting.compression import compress as run

    flat = {**{key: value for key, value in settings.items() if key != "options"}, **settings["options"]}
    return show.values_of(run(source, target, lossless=True, force=force, **flat)) | show.nothing_beside()


def _fitted(
    source: Path,
    target: Path,
    settings: dict[str, Any],
    plan: Path | None,
    sink: Output,
    report: Report,
    *,
    force: bool,
    reference: bool,
) -> dict[str, Any]:
    """Fit, write, and hold the result against the reference."""
    from adaptzip.adz.container import writer
    from adaptzip.fitting.choosing import choose_method
    from adaptzip.fitting.measuring import calibrated_error, captured
    from adaptzip.fitting.requests import AUTO, prepare_job
    from adaptzip.fitting.running import run

    loaded, request = _load(source, settings, plan)
    share = None
    if request.to == AUTO:
        made = choose_method(loaded, request, report)
    else:
        job = prepare_job(loaded, request)
        share = captured(job)
        if share is not None:
            sink.note(f"the basis captures {100 * share:.3g} % of the update's energy")
        made = run(job, report)
    writer.write(made.compressed, target, force=force)
    return show.values_of(made.compressed) | {
        "weighted_error": calibrated_error(loaded, made.compressed, request),
        "captured_energy": share,
        "basis_bytes": _basis_bytes(made.compressed, settings["basis"]),
        "tried": [show.tried_row(row) for row in made.tried] if request.to == AUTO else None,
        "reference": _reference(loaded, made, request, report) if reference else None,
    }


def _basis_bytes(compressed: Compressed, basis: Path | None) -> int | None:
    """Size of the basis that the file leans on; None where it is in the file, in the base model, or not needed."""
    reference = compressed.basis
    return basis.stat().st_size if basis is not None and reference is not None and reference.source == "file" else None


def _load(source: Path, settings: dict[str, Any], plan: Path | None) -> tuple[Original, Request]:
    from adaptzip.checkpoints._base_name import warn_of_local_name
    from adaptzip.fitting.loading import load_source
    from adaptzip.fitting.requests import Request

    request = Request(**settings)
    loaded = load_source(source, request)
    warn_of_local_name(loaded.adapter.meta.base_model)
    if plan is not None and request.ranks is not None:
        from adaptzip.fitting.plan_files import check_modules

        check_modules(plan, request.ranks, loaded.adapter.modules)
    return loaded, request


def _reference(source: Original, made: Made, request: Request, report: Report) -> dict[str, Any] | None:
    """What the reference method makes of the same bytes; None if it made this, or can't be so small."""
    from adaptzip.fitting.choosing import reference_at
    from adaptzip.fitting.measuring import measured_error
    from adaptzip.methods import REFERENCE

    if made.compressed.method == REFERENCE:
        return None
    report("reference", 0.0)
    beside = reference_at(source, made.size, request)
    if beside is None:
        return None
    error = measured_error(source, beside.compressed, request)
    own = measured_error(source, made.compressed, request)
    return {
        "method": REFERENCE,
        "bytes": beside.size,
        "relative_error": error,
        "against": own,
        "wins": error < own,
    }


def _preview(
    source: Path,
    target: Path,
    size: int,
    *,
    lossless: bool,
    settings: dict[str, Any],
    plan: Path | None,
    sink: Output,
) -> None:
    """What would come of it: exactly for --lossless, which needs no search, else as the method predicts."""
    from adaptzip.adz.container import writer
    from adaptzip.fitting.compression import compress as run

    if lossless:
        flat = {**{key: value for key, value in settings.items() if key != "options"}, **settings["options"]}
        made = run(source, lossless=True, **flat)
        values = show.values_of(made) | show.nothing_beside() | {"bytes": writer.size(made)}
    else:
        values = _foreseen(source, settings, plan)
    values |= {"path": str(target), "source_bytes": size, "ratio": size / values["bytes"], "dry_run": True}
    weighted = values["weighted_error"] is not None
    sink.result(
        values,
        lambda: "\n".join(
            [
                f"would write {target}  {show.summary(values)}",
                show.counts(values),
                *([show.tried(values["tried"], size, weighted=weighted)] if values["tried"] else []),
            ]
        ),
    )


def _foreseen(source: Path, settings: dict[str, Any], plan: Path | None) -> dict[str, Any]:
    from adaptzip.fitting.choosing import forecast
    from adaptzip.fitting.forecasts import compare
    from adaptzip.fitting.requests import AUTO
    from adaptzip.methods import fittable

    loaded, request = _load(source, settings, plan)
    tried = None
    if request.to == AUTO:
        report = compare(loaded, request, fittable())
        best, tried = report.best, show.forecast_rows(report)
    else:
        best = forecast(loaded, request)
    return show.nothing_beside() | {
        "method": best.method,
        "options": dict(best.options),
        "parameters": best.parameters,
        "relative_error": None if loaded.sensitivities else best.relative_error,
        "weighted_error": best.relative_error if loaded.sensitivities else None,
        "kept_modules": len(best.ranks) if best.ranks else None,
        "lossless": False,
        "bytes": best.bytes,
        "tried": tried,
    }
