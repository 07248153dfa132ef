"""`adaptzip verify`: whether a `.adz` is intact and says the truth about its error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._requests import text_fields
from adaptzip.cli._weighing import sensitivities
from adaptzip.errors import CheckFailedError


def verify(
    file: Annotated[Path, typer.Argument(help="The .adz file.", metavar="FILE", show_default=False)],
    against: Annotated[
        Path | None,
        typer.Option(help="The adapter it was made from, to measure the error.", metavar="SRC", show_default=False),
    ] = None,
    max_error: options.CheckError = None,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    base: options.NeededBase = None,
    basis: options.NeededBasis = None,
    calibration: options.WeighingTexts = None,
    text_field: options.TextField = None,
    pair_field: options.PairField = None,
    completion_field: options.CompletionField = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Check that a .adz is intact and true.

    That is: its hashes and structure are right, and every module decodes. Given its source, also the error of
    every module, the total against what the file says, and the extras that are stored without loss. Exits
    with 1 if a check says no, with 2 if the file is malformed. With --base and --calibration it tells the error
    as the base model's activations see it, too; the one that the file states is the plain one. Writes nothing.

    \b
    Examples:
      adaptzip verify my-adapter.adz
      adaptzip verify my-adapter.adz --against my-adapter/ --max-error 0.1
    """
    from adaptzip.reports.verifying import VerifyReport
    from adaptzip.reports.verifying import verify as run
    from adaptzip.restoring.reading import read

    def say(report: VerifyReport) -> str:
        lines = [f"{'ok ' if check.passed else 'NO '} {check.name}: {check.detail}" for check in report.checks]
        if report.weighted_error is not None:
            lines.append(f"weighted by activations, the error is {text.number(report.weighted_error)}")
        if verbose and report.modules:
            rows = [[m.name, text.number(m.norm), _error(m.relative_error)] for m in report.modules]
            lines.append(text.table(rows, head=["module", "norm", "relative error"], indent=""))
        return "\n".join(lines)

    fields = text_fields(calibration, text_field, pair_field, completion_field)
    given: dict[str, Any] = {"alpha": alpha, "config": config, "base": base, "basis": basis, "dialect": dialect}
    source = None if against is None else read(against, **given)
    weights = sensitivities(source, against, base, calibration, fields)
    report = run(file, source, max_error=max_error, base=base, basis=basis, sensitivities=weights)
    Output(as_json, quiet, verbose).result(
        {"path": str(file), "against": None if against is None else str(against), **report.as_dict()},
        lambda: say(report),
    )
    failed = [check for check in report.checks if not check.passed]
    if failed:
        raise CheckFailedError(f"{file}: {failed[0].name}: {failed[0].detail}")


def _error(value: float | None) -> str:
    return "infinite" if value is None else text.number(value)
