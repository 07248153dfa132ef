"""`adaptzip combine`: one adapter out of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _combining as combining
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_export
from adaptzip.cli.export import elsewhere
from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.core.adapter import Adapter
    from adaptzip.core.budget import Budget


def combine(
    sources: combining.Sources,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A file .adz to compress into, else the folder or file of a dialect.",
            metavar="PATH",
            show_default=False,
        ),
    ],
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
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep a .adz's factors bit for bit.")] = False,
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

    With --method cat the update is the weighted sum of theirs, exactly, and ranks add up; the others are those of
    PEFT's add_weighted_adapter. --budget and --max-error then make it smaller: a .adz by its usual coding, the files of
    a dialect by lower ranks. Shares as 25% or 4x are of all sources together.

    \b
    Examples:
      adaptzip combine style.adz:0.7 facts/ code.safetensors:0.3 -o one.adz --budget 2MB
      adaptzip combine a/ b/ c/ -o one/ --method ties --density 0.5
      adaptzip combine a/ b/ -o one/ --max-error 0.1
    """
    paths, weights = combining.weighted(sources)
    check_export(output, force=force, source=paths, base=base, basis=basis)
    packed = output.suffix == ".adz"
    packing: dict[str, Any] = {"to": to, "lossless": lossless}
    writing: dict[str, Any] = {"as_": as_, "dtype": dtype, "drop_extras": drop_extras}
    _check_kind(output, writing if packed else packing, "the files of a dialect" if packed else "a .adz")
    sink = Output(as_json, quiet, verbose)
    sink.detail("reading the adapters")
    how: dict[str, Any] = {
        "method": method, "rank": rank, "density": density, "majority": majority, "seed": seed,
    }  # fmt: skip
    reading: dict[str, Any] = {"alpha": alpha, "base": base, "basis": basis, "dialect": dialect}
    limit = _limit(budget, paths)
    with sink.warnings():
        from adaptzip.restoring.combining import combine as run

        adapter = run(paths, weights, **how, **reading)
        limits = {"budget": limit, "max_error": max_error, "base_name": base_name}
        if packed:
            values = _pack(adapter, output, packing | limits, force=force, dry_run=dry_run)
        else:
            values = _write(adapter, output, writing | limits | {"base": base}, force=force, dry_run=dry_run)
    values |= {"sources": len(paths), "method": method, "dry_run": dry_run}
    _tell(output, values, sink)


def _check_kind(output: Path, others: dict[str, Any], kind: str) -> None:
    """Raises: UsageError: if an option is for another kind of output."""
    for name in (name for name, value in others.items() if value):
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        raise UsageError(f"{output}: {flag} is for {kind}", hint=f"leave {flag} out, or name another output")


def _limit(budget: str | None, paths: list[Path]) -> Budget | None:
    """The budget; shares are of all sources together."""
    from adaptzip.core.budget import Budget
    from adaptzip.restoring.reading import source_bytes

    found = Budget.of(budget)
    if found is None or found.unit != "fraction":
        return found
    return Budget(found.bytes_for(sum(map(source_bytes, paths))) or 1, "bytes")


def _pack(adapter: Adapter, output: Path, settings: dict[str, Any], *, force: bool, dry_run: bool) -> dict[str, Any]:
    from adaptzip.adz.container.writer import size
    from adaptzip.fitting.compression import compress

    given = {name: value for name, value in settings.items() if value is not None}
    made = compress(adapter, None if dry_run else output, force=force, **given)
    return {
        "path": str(output),
        "dialect": None,
        "bytes": size(made) if dry_run else output.stat().st_size,
        "modules": len(adapter.modules),
        "error": made.provenance.relative_error,
        "left_out": [],
    }


def _write(adapter: Adapter, output: Path, settings: dict[str, Any], *, force: bool, dry_run: bool) -> dict[str, Any]:
    from adaptzip.restoring.converting import convert

    if dry_run:
        with elsewhere(output) as path:
            report = convert(adapter, path, **settings)
    else:
        report = convert(adapter, output, force=force, **settings)
    return {
        "path": str(output),
        "dialect": report.written.dialect,
        "bytes": report.written.bytes,
        "modules": report.written.modules,
        "error": report.error,
        "left_out": list(report.written.left_out),
    }


def _tell(output: Path, values: dict[str, Any], sink: Output) -> None:
    for what in values["left_out"]:
        sink.note(f"left out: {what}")
    kind = f" as {values['dialect']}" if values["dialect"] else ""
    error = f", error {values['error']:.4f}" if values["error"] else ""
    made = f"{text.count(values['modules'], 'module')} of {text.count(values['sources'], 'adapter')}"
    summary = f"{text.size(values['bytes'])}{kind}  ({made}{error})"
    if values["dry_run"]:
        sink.result(values, lambda: f"would write {output}  {summary}")
    else:
        sink.wrote(output, summary, values)
