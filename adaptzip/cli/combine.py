"""`adaptzip combine`: one adapter out of several."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from adaptzip.cli import _combining as combining
from adaptzip.cli import _making as making
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_export


def combine(
    sources: combining.Sources,
    output: making.Output,
    method: combining.Combination = "cat",
    rank: combining.Rank = None,
    density: combining.Density = None,
    majority: combining.Majority = "total",
    seed: combining.Seed = 0,
    budget: options.Size = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Upper limit of the relative error against the combination; 0.1 for a .adz without a budget.",
            metavar="X",
            show_default=False,
        ),
    ] = None,
    to: options.To = None,
    lossless: making.Lossless = False,
    as_: options.As = None,
    dtype: options.FactorDtype = None,
    drop_extras: options.DropExtras = False,
    alpha: options.Alpha = None,
    dialect: options.From = None,
    base: options.NeededBase = None,
    basis: options.NeededBasis = None,
    base_name: options.BaseName = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make one adapter out of several.

    Writes a .adz, or the folder or file of a dialect. With --method cat the update is the weighted sum of theirs,
    exactly, and ranks add up; the others are those of PEFT's add_weighted_adapter. --budget and --max-error then make
    it smaller: a .adz by its usual coding, the files of a dialect by lower ranks. Shares as 25% or 4x are of all
    sources together.

    \b
    Examples:
      adaptzip combine style.adz:0.7 facts/ code.safetensors:0.3 -o one.adz --budget 2MB
      adaptzip combine a/ b/ c/ -o one/ --method ties --density 0.5
      adaptzip combine a/ b/ -o one/ --max-error 0.1
    """
    paths, weights = combining.weighted(sources)
    check_export(output, force=force, source=paths, base=base, basis=basis)
    packing: dict[str, Any] = {"to": to, "lossless": lossless}
    writing: dict[str, Any] = {"as_": as_, "dtype": dtype, "drop_extras": drop_extras}
    packed = making.check_kind(output, packing, writing)
    sink = Output(as_json, quiet, verbose)
    sink.detail("reading the adapters")
    how: dict[str, Any] = {
        "method": method, "rank": rank, "density": density, "majority": majority, "seed": seed,
    }  # fmt: skip
    reading: dict[str, Any] = {"alpha": alpha, "base": base, "basis": basis, "dialect": dialect}
    with sink.warnings():
        from adaptzip.restoring.combining import combine as run
        from adaptzip.restoring.opening import source_bytes

        limit = making.in_bytes(budget, lambda: sum(map(source_bytes, paths)))
        adapter = run(paths, weights, **how, **reading)
        limits = {"budget": limit, "max_error": max_error, "base_name": base_name}
        if packed:
            values = making.pack(adapter, output, packing | limits, force=force, dry_run=dry_run)
        else:
            values = making.write(adapter, output, writing | limits | {"base": base}, force=force, dry_run=dry_run)
    values |= {"sources": len(paths), "method": method, "dry_run": dry_run}
    making.tell(output, values, _contents(values), sink)


def _contents(values: dict[str, Any]) -> str:
    error = f", error {values['error']:.4f}" if values["error"] else ""
    return f"{text.count(values['modules'], 'module')} of {text.count(values['sources'], 'adapter')}{error}"
