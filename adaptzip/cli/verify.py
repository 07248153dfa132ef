"""`adaptzip verify`: whether a `.adz` is intact and says the truth about its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _many as many
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._requests import text_fields
from adaptzip.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from adaptzip.reports.verifying import VerifyReport


def verify(
    files: Annotated[
        list[Path],
        typer.Argument(help=".adz files, or patterns such as 'small/*.adz'.", metavar="FILE...", show_default=False),
    ],
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
    jobs: options.Jobs = 1,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Check that .adz files are intact and true.

    That is: its hashes and structure are right, and every module decodes. Given its source, also the error of
    every module, the total against what the file says, and the extras that are stored without loss. Exits
    with 1 if a check says no, with 2 if the file is malformed. With --base and --calibration it tells the error
    as the base model's activations see it, too; the one that the file states is the plain one. Writes nothing.

    \b
    Examples:
      adaptzip verify my-adapter.adz
      adaptzip verify *.adz
      adaptzip verify my-adapter.adz --against my-adapter/ --max-error 0.1
    """
    fields = text_fields(calibration, text_field, pair_field, completion_field)
    given: dict[str, Any] = {
        "against": against, "max_error": max_error, "alpha": alpha, "config": config, "dialect": dialect,
        "base": base, "basis": basis, "calibration": calibration, **fields,
    }  # fmt: skip
    sink, found = Output(as_json, quiet, verbose), many.expanded(files)
    if len(found) > 1:
        if against is not None:
            raise UsageError("--against is the source of one file, and there are several", hint="verify them apart")
        with sink.warnings():
            many.finish(many.run(partial(_worked, given), found, sink, jobs=jobs), _table, sink)
        return
    _one(found[0], given, sink)


def _one(file: Path, given: Mapping[str, Any], sink: Output) -> None:
    """Check one file, and tell everything about it."""
    report = _checked(file, given)
    against = given["against"]
    sink.result(
        {"path": str(file), "against": None if against is None else str(against), **report.as_dict()},
        lambda: _said(report, sink.verbose),
    )
    _refuse_failed(file, report)


def _checked(file: Path, given: Mapping[str, Any]) -> VerifyReport:
    from adaptzip.adz.container.reader import read_header

    if not file.is_dir():
        read_header(file)
    from adaptzip.reports.verifying import verify as run

    return run(file, **given)


def _refuse_failed(file: Path, report: VerifyReport) -> None:
    failed = [check for check in report.checks if not check.passed]
    if failed:
        raise CheckFailedError(f"{file}: {failed[0].name}: {failed[0].detail}")


def _worked(given: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Check one of several files, perhaps in a process of its own."""
    report = _checked(file, given)
    _refuse_failed(file, report)
    return {"path": str(file), "against": None, **report.as_dict()}


def _table(outcomes: Sequence[many.Outcome]) -> str:
    rows = [
        [str(outcome.source), outcome.values["method"], text.number(outcome.values["stated_error"]), "intact"]
        for outcome in outcomes
    ]
    return text.table(rows, head=["file", "method", "stated error", ""])


def _said(report: VerifyReport, verbose: bool) -> str:
    lines = [f"{'ok ' if check.passed else 'NO '} {check.name}: {check.detail}" for check in report.checks]
    if report.weighted_error is not None:
        lines.append(f"weighted by activations, the error is {text.number(report.weighted_error)}")
    if verbose and report.modules:
        rows = [[m.name, text.number(m.norm), _error(m.relative_error)] for m in report.modules]
        lines.append(text.table(rows, head=["module", "norm", "relative error"]))
    return "\n".join(lines)


def _error(value: float | None) -> str:
    return "infinite" if value is None else text.number(value)
