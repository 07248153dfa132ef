"""`adaptzip convert`: an adapter in another dialect, or in its own with lower ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_export
from adaptzip.cli.export import elsewhere, said

if TYPE_CHECKING:
    from adaptzip.restoring.converting import ConvertReport


def convert(
    source: options.Source,
    output: Annotated[
        Path,
        typer.Argument(
            help="The folder to write, or a file where the dialect has one.", metavar="OUT", show_default=False
        ),
    ],
    as_: options.As = None,
    rank: Annotated[
        int | None, typer.Option(help="Upper limit of each module's rank.", metavar="NUMBER", show_default=False)
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Upper limit of the relative error |dW - dW'| / |dW|; ranks are chosen for all modules together.",
            metavar="NUMBER",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "-b",
            help="Upper limit of the files together: 64KiB or 20MB on disk, 25% or 4x of the source.",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
    dtype: options.FactorDtype = None,
    drop_extras: options.DropExtras = False,
    alpha: options.Alpha = None,
    config: options.Config = None,
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
    """Write an adapter in another dialect, or at lower ranks.

    Writes the folder OUT, or the file OUT where it ends with .safetensors or .gguf and the dialect has one file.
    Without --rank, --max-error or --budget the factors stay as they are. With one of them each update is cut to
    its first singular directions, in seconds; `adaptzip compress` codes the numbers too, and needs far fewer bytes.

    \b
    Examples:
      adaptzip convert anime.safetensors anime-diffusers/ --as diffusers
      adaptzip convert anime.safetensors small.safetensors --max-error 0.1
      adaptzip convert my-adapter/ for-mlx/ --as mlx
    """
    check_export(output, force=force, source=source, config=config, base=base, basis=basis)
    sink = Output(as_json, quiet, verbose)
    from adaptzip.restoring.converting import convert as write

    settings: dict[str, Any] = {
        "as_": as_, "rank": rank, "max_error": max_error, "budget": budget, "dtype": dtype, "drop_extras": drop_extras,
        "alpha": alpha, "config": config, "dialect": dialect, "base": base, "basis": basis, "base_name": base_name,
    }  # fmt: skip
    if dry_run:
        with sink.warnings(), elsewhere(output) as path:
            report = write(source, path, **settings)
        told = [f"would write {output}  {_summary(report)}", f"files: {', '.join(report.written.files)}"]
        told += said(report.written)
        sink.result(_values(output, report) | {"dry_run": True}, lambda: "\n".join(told))
        return
    with sink.warnings():
        report = write(source, output, force=force, **settings)
    for line in said(report.written):
        sink.note(line)
    sink.wrote(output, _summary(report), _values(output, report) | {"dry_run": False})


def _summary(report: ConvertReport) -> str:
    written = report.written
    low, high = report.ranks
    ranks = f"rank {high}" if low == high else f"ranks {low} to {high}"
    error = f", error {report.error:.4f}" if report.error else ""
    return f"{text.size(written.bytes)} as {written.dialect}  ({text.count(written.modules, 'module')}, {ranks}{error})"


def _values(output: Path, report: ConvertReport) -> dict[str, Any]:
    written = report.written
    return {
        "path": str(output),
        "dialect": written.dialect,
        "bytes": written.bytes,
        "files": list(written.files),
        "modules": written.modules,
        "ranks": list(report.ranks),
        "error": report.error,
        "left_out": list(written.left_out),
    }
