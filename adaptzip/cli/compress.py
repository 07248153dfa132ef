"""`adaptzip compress`: the smallest file for a size or an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adaptzip.cli import _compressing as compressing
from adaptzip.cli import _many as many
from adaptzip.cli import _options as options
from adaptzip.cli._output import Output
from adaptzip.cli._paths import default_output
from adaptzip.cli._requests import budget_text, method_settings, planned_settings, text_fields
from adaptzip.errors import UsageError


def compress(
    paths: options.Sources,
    to: options.To = None,
    budget: options.Size = None,
    params: options.Parameters = None,
    bytes_: options.Bytes = None,
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
    output_dir: options.OutputDir = None,
    jobs: options.Jobs = 1,
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
    """Compress LoRA adapters, each into one .adz file.

    Writes FILE; without -o this is lora.adz beside lora.safetensors, and my-adapter.adz beside the folder
    my-adapter/. Several sources go into the folder --output-dir; one that fails does not stop the others, and
    what an earlier run made of them is left. With neither a budget nor an error, the file is the smallest whose
    relative error is at most 0.1. Beside any other method's result it says what svd, the reference, makes of
    the same bytes.

    \b
    Examples:
      adaptzip compress my-adapter/
      adaptzip compress my-adapter/ --budget 64KiB -o small.adz
      adaptzip compress lora.safetensors --to vblora --budget 50k
      adaptzip compress my-adapter/ --to auto --budget 100x
      adaptzip compress my-adapter/ --plan plan.json
      adaptzip compress my-adapter/ --lossless -o exact.adz
      adaptzip compress my-adapter/ --search-starts
      adaptzip compress a/ b/ 'more/*.safetensors' --output-dir small/ --jobs 2
    """
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
        "to": to, "budget": budget_text(budget, params, bytes_), "max_error": max_error, "effort": effort,
        "allocate": allocate,
    }  # fmt: skip
    if plan is None:
        settings |= {key: value for key, value in chosen.items() if value is not None}
        settings["options"] = method_settings(to, setting or [])
    else:
        settings |= planned_settings(plan, _decided(chosen, budget, params, bytes_, setting, lossless=lossless))
    sources = many.expanded(paths)
    how = compressing.Job(settings, plan, force=force, reference=reference, dry_run=dry_run)
    if output_dir is None and len(sources) == 1:
        compressing.one(sources[0], output or default_output(sources[0]), how, sink)
        return
    if output is not None:
        raise UsageError("-o names one file, and there are several sources", hint="name a folder with --output-dir")
    compressing.several(sources, output_dir, how, jobs, sink)


def _decided(
    chosen: Mapping[str, Any],
    budget: str | None,
    params: str | None,
    size: str | None,
    setting: list[str] | None,
    *,
    lossless: bool,
) -> dict[str, Any]:
    """What a plan decides, as the command line has it."""
    limits = {"budget": budget, "params": params, "bytes": size}
    return {**chosen, **limits, "set": setting, "lossless": lossless or None}
