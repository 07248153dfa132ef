"""`adaptzip plan`: methods and settings beside each other, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _show_choice as show
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file
from adaptzip.cli._requests import budget_text, method_settings, text_fields
from adaptzip.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from adaptzip.fitting.forecasts import PlanReport


def plan(
    source: options.Source,
    to: options.Methods = None,
    budget: options.Size = None,
    params: options.Parameters = None,
    bytes_: options.Bytes = None,
    max_error: options.MaxError = None,
    extras: options.KeepExtras = "lossless",
    setting: options.Settings = None,
    allocate: options.Allocate = None,
    base: options.Base = None,
    basis: options.Basis = None,
    embed_basis: options.EmbedBasis = False,
    start: options.Start = None,
    effort: options.Effort = None,
    calibration: options.Calibration = None,
    text_field: options.TextField = None,
    pair_field: options.PairField = None,
    completion_field: options.CompletionField = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the best row as a file for `compress --plan`.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
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
    """Show what each method would make of an adapter.

    A table over methods and settings: predicted bytes, stored parameters and relative error, the best first,
    and below it the methods that can't, with the reason. Nothing is coded, so `compress` may come out a
    little better or worse. Writes nothing, or with -o the best row as JSON, which may be edited and given to
    `compress --plan`.

    \b
    Examples:
      adaptzip plan my-adapter/ --budget 100x
      adaptzip plan my-adapter/ --budget 50k --to vblora --to loretta
      adaptzip plan my-adapter/ --budget 100x -o plan.json
    """
    from adaptzip.restoring.opening import source_bytes

    budget = budget_text(budget, params, bytes_)
    methods = to or []
    if setting and len(methods) != 1:
        raise UsageError("-s sets an option of one method", hint="name one method with --to")
    size = source_bytes(source)
    if output is not None:
        check_file(output, force=force, source=source, config=config, base=base, basis=basis, calibration=calibration)
    sink = Output(as_json, quiet, verbose)
    from adaptzip.core.budget import Budget
    from adaptzip.fitting.choosing import plan_of
    from adaptzip.fitting.requests import AUTO, Request
    from adaptzip.methods import load

    for name in methods:
        load(name)
    request = Request(
        to=methods[0] if len(methods) == 1 else AUTO,
        budget=Budget.of(budget),
        max_error=max_error,
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
        allocate=allocate,
        options=method_settings(methods[0], setting) if setting else {},
    )
    with sink.warnings(), sink.progress() as report:
        found = plan_of(source, request, methods or None, report)
    rows = show.forecast_rows(found)
    values: dict[str, Any] = {
        "source_bytes": size,
        "budget": budget,
        "max_error": max_error,
        "allocate": allocate,
        "weighted": found.weighted,
        "rows": rows,
        "path": None if output is None else str(output),
    }
    if output is None:
        sink.result(values, lambda: show.tried(rows, size, weighted=found.weighted))
        _check_any(found)
        return
    from adaptzip.fitting.plan_files import write_plan

    if not as_json:
        sink.result(values, lambda: show.tried(rows, size, weighted=found.weighted))
    _check_any(found)
    write_plan(output, found, budget=budget, max_error=max_error, effort=request.effort, allocate=allocate, force=force)
    best = found.best
    told = f"{'weighted ' if found.weighted else ''}error {text.number(best.relative_error)}"
    sink.wrote(output, f"{best.method}, about {text.size(best.bytes)}, {told}", values)


def _check_any(found: PlanReport) -> None:
    """Raises CheckFailedError if no method can do what was asked; the reasons are in the table."""
    if not found.forecasts:
        raise CheckFailedError("no method can do it", hint=found.hint)
