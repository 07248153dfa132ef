"""`adaptzip diff`: how far two adapters are apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._requests import text_fields
from adaptzip.errors import CheckFailedError

if TYPE_CHECKING:
    from adaptzip.core.comparing import DiffReport


def diff(
    a: Annotated[
        Path,
        typer.Argument(help="The reference: an adapter of any dialect, or a .adz.", metavar="A", show_default=False),
    ],
    b: Annotated[Path, typer.Argument(help="What to compare with it, likewise.", metavar="B", show_default=False)],
    max_error: options.CheckError = None,
    base: options.NeededBase = None,
    basis: options.NeededBasis = None,
    calibration: options.WeighingTexts = None,
    text_field: options.TextField = None,
    pair_field: options.PairField = None,
    completion_field: options.CompletionField = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show how far two adapters are apart.

    That is the relative error |dWa - dWb| / |dWa| of every module and of all together, and which extras
    differ. With --base and --calibration also the error as the base model's activations see it. Image
    models' two names for one layer count as one. Exits with 1 where no module is in both. Writes nothing.

    \b
    Examples:
      adaptzip diff my-adapter/ my-adapter.adz
      adaptzip diff my-adapter/ restored/ --max-error 0.1
      adaptzip diff my-adapter/ my-adapter.adz --base base-model/ --calibration texts.jsonl
    """
    from adaptzip.reports.differing import diff as compare

    fields = text_fields(calibration, text_field, pair_field, completion_field)
    report = compare(a, b, base=base, basis=basis, calibration=calibration, **fields)
    Output(as_json, quiet).result(
        {"a": str(a), "b": str(b), "max_error": max_error, **report.as_dict()}, lambda: _text(report)
    )
    if not report.modules and report.only_in_a and report.only_in_b:
        raise CheckFailedError(
            f"{b}: has none of the modules of {a}: {report.only_in_b[0].name} and the like, expected "
            f"{report.only_in_a[0].name} and the like",
            hint="compare adapters of the same base model",
        )
    error = report.relative_error
    if max_error is not None and (error is None or error > max_error):
        raise CheckFailedError(f"{b}: the relative error is {_error(error)}, expected at most {max_error:g}")


def _text(report: DiffReport) -> str:
    rows = [[m.name, text.number(m.norm), _error(m.relative_error)] for m in report.modules]
    rows += [[f"{m.name} (only in the first)", text.number(m.norm), _error(1.0)] for m in report.only_in_a]
    rows += [[f"{m.name} (only in the second)", "", "-"] for m in report.only_in_b]
    rows.append(["all modules", "", _error(report.relative_error)])
    if report.weighted_error is not None:
        rows.append(["all modules, weighted by activations", "", _error(report.weighted_error)])
    lines = [text.table(rows, head=["module", "norm", "relative error"])]
    lines += [f"extra differs: {name}" for name in report.extras_different]
    equal = len(report.extras_equal)
    if equal:
        lines.append(f"{text.count(equal, 'extra')} bit for bit the same")
    return "\n".join(lines)


def _error(value: float | None) -> str:
    return "infinite" if value is None else text.number(value)
