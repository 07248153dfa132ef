"""`adaptzip bench`: error against bytes, method by method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adaptzip.cli import _formats as formats
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file
from adaptzip.cli._requests import text_fields
from adaptzip.core.budget import Budget

if TYPE_CHECKING:
    from adaptzip.reports.bench_results import Bench


def bench(
    source: options.Source,
    to: options.Methods = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            help="A size to try: 64KiB, 2% or 100x; may be repeated.  [default: 5%, 2%, 1%, 0.5% besides extras, or "
            "sizes above the smallest that a file can have]",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(
            help="Numbers of stored parameters to try instead, such as 10k,50k.", metavar="N,N,...", show_default=False
        ),
    ] = None,
    format: Annotated[
        Literal["text", "md", "latex", "csv"], typer.Option(help="How to print the table.", show_default=True)
    ] = "text",
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw it, as .png, .svg or .pdf; needs matplotlib.", metavar="FILE", show_default=False),
    ] = None,
    extras: options.KeepExtras = "lossless",
    base: options.Base = None,
    basis: options.Basis = None,
    embed_basis: options.EmbedBasis = False,
    start: options.Start = None,
    effort: options.Effort = None,
    calibration: options.Calibration = None,
    text_field: options.TextField = None,
    pair_field: options.PairField = None,
    completion_field: options.CompletionField = None,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure the error of every method at a few sizes.

    Every file is made and measured, and none is kept. Beside them stand the fewest bytes that the Gaussian
    rate-distortion bound allows at each file's error, and what float16 and int4 factors would take. All sizes
    count the extras. --format prints the files alone, with plain numbers, for other programs. Writes nothing but
    the plot.

    \b
    Examples:
      adaptzip bench my-adapter/
      adaptzip bench my-adapter/ --to svd --to vblora --budget 100x --budget 200x
      adaptzip bench my-adapter/ --params 10k,50k --format md
      adaptzip bench my-adapter/ --plot sizes.png
    """
    from adaptzip.restoring.opening import source_bytes

    source_bytes(source)
    sink = Output(as_json, quiet, verbose)
    if plot is not None:
        from adaptzip.reports.plots import check_plot

        check_plot(plot)
        check_file(plot, force=force, source=source, config=config, base=base, basis=basis, calibration=calibration)
    from adaptzip.fitting.requests import Request
    from adaptzip.methods import load
    from adaptzip.reports.benching import bench_of

    for name in to or []:
        load(name)
    request = Request(
        extras=extras,
        alpha=alpha,
        config=config,
        dialect=dialect,
        device=device,
        seed=seed,
        base=base,
        basis=basis,
        embed_basis=embed_basis,
        start=start,
        effort=effort or "default",
        calibration=calibration,
        **text_fields(calibration, text_field, pair_field, completion_field),
    )
    sizes: list[Any] = [*(budget or []), *(Budget.parse(one, "parameters") for one in _listed(params))]
    with sink.warnings(), sink.progress() as report:
        found = bench_of(source, request, methods=to or (), sizes=sizes, progress=report)
    values = {"path": None if plot is None else str(plot), **found.as_dict()}
    if plot is None:
        sink.result(values, lambda: _shown(found, format))
        return
    from adaptzip.reports.plots import draw

    draw(found, plot, title=source.resolve().name, force=force)
    if not as_json:
        sink.result(values, lambda: _shown(found, format))
    sink.wrote(plot, f"{text.count(len(found.points), 'file')} of {text.count(_methods(found), 'method')}", values)


def _listed(numbers: str | None) -> list[str]:
    return [] if numbers is None else numbers.split(",")


def _shown(found: Bench, form: str) -> str:
    if form == "text":
        return _text(found)
    return formats.WRITERS[form](*found.table)


def _methods(found: Bench) -> int:
    return len({point.method for point in found.points})


def _text(found: Bench) -> str:
    """The table, the simple ways to store the factors, and what could not be made."""
    weighted = any(point.weighted_error is not None for point in found.points)
    known = any(point.known_bound for point in found.points)
    head = ["method", "size", "ratio", "parameters", "error", *(["weighted"] if weighted else []), "bound", "x bound"]
    head += ["start known", "x bound"] if known else []
    rows = [
        [
            point.method,
            text.size(point.bytes),
            text.ratio(found.source_bytes, point.bytes),
            f"{point.parameters:,}",
            text.number(point.relative_error),
            *([_number(point.weighted_error)] if weighted else []),
            *_against(point.bytes, point.bound),
            *(_against(point.bytes, point.known_bound) if known else []),
        ]
        for point in found.points
    ]
    simple = [
        [row.name, text.size(row.bytes), text.ratio(found.source_bytes, row.bytes), "", _number(row.relative_error)]
        for row in found.yardsticks
    ]
    padded = [[*row, *[""] * (len(head) - len(row))] for row in simple]
    lines = [text.table([*rows, *padded], head=head)]
    for missed in found.missed:
        where = "" if missed.budget is None else f" at {_limit(missed.budget, missed.unit)}"
        lines.append(f"{missed.method}{where}: {missed.reason}")
    if found.extras_bytes:
        lines.append(f"all sizes include {text.size(found.extras_bytes)} of extras")
    return "\n".join(lines)


def _limit(amount: int, unit: str) -> str:
    return text.size(amount) if unit == "bytes" else text.count(amount, "parameter")


def _against(size: int, bound: int | None) -> list[str]:
    """The bytes of a bound, and how many times as large a file is."""
    return [text.size(bound), f"{size / bound:.2f}"] if bound else ["-", "-"]


def _number(value: float | None) -> str:
    return "-" if value is None else text.number(value)
