"""`adaptzip check`: whether a merged model is its base plus an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _combining as combining
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from adaptzip.reports.merged import CheckReport
    from adaptzip.reports.merged.report import TensorCheck

_SHOWN = 20
"""Rows of tensors that are not exact; --verbose shows all tensors that the adapter changes."""


def check(
    merged: Annotated[
        Path,
        typer.Argument(
            help="The merged model: a folder, a pipeline's, or a safetensors file.",
            metavar="MERGED",
            show_default=False,
        ),
    ],
    base: Annotated[
        Path | None,
        typer.Option("--base", help="The base model, in the same form.", metavar="DIR|FILE", show_default=False),
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            help="An adapter of any dialect, or .adz file, that it should hold; may be repeated. A number after a "
            "colon is what its update was multiplied by.",
            metavar="SRC[:WEIGHT]",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        float, typer.Option(help="What every update was multiplied by; -1 after --subtract.", metavar="NUMBER")
    ] = 1.0,
    method: combining.Combination = "cat",
    rank: combining.Rank = None,
    density: combining.Density = None,
    majority: combining.Majority = "total",
    seed: combining.Seed = 0,
    untie: Annotated[
        bool, typer.Option("--untie", help="Tied embeddings have each their own updates, as after merge --untie.")
    ] = False,
    max_ulps: Annotated[
        float,
        typer.Option(
            help="The most units of the last place that a number may be off; 0 for bit for bit alone.",
            metavar="NUMBER",
            min=0.0,
        ),
    ] = 4.0,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    basis: options.NeededBasis = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Say whether a merged model is a base model plus an adapter.

    Holds every tensor against what merging makes of the base's, in any of the ways in which programs round: bit for
    bit, within a few units of the last place (other hardware, another order of sums), or no, with the nearest
    explanation: not merged, merged twice, at another scale, single numbers changed, another adapter or base. The
    merged model may be sharded otherwise than its base, saved again in another dtype, or have the tensor names of
    another version of transformers. Exits with 1 if it says no. Writes nothing.

    \b
    Examples:
      adaptzip check merged/ --base base-model/ --adapter my-adapter.adz
      adaptzip check merged/ --base base-model/ --adapter style.adz:0.7 --adapter facts/:0.3
      adaptzip check merged/ --base base-model/ --adapter my-adapter/ --scale 0.5 --max-ulps 0
    """
    if base is None or not adapters:
        raise _incomplete(merged, "--adapter SRC" if base is not None else "--base DIR")
    paths, weights = combining.weighted(adapters)
    if len(paths) > 1 and config is not None:
        raise UsageError("--config is the configuration of one adapter", hint="put each one beside its weights")
    from adaptzip.reports.merged import check as run

    sink = Output(as_json, quiet, verbose)
    how: dict[str, Any] = {
        "method": method, "rank": rank, "density": density, "majority": majority, "seed": seed,
    }  # fmt: skip
    with sink.warnings():
        report = run(
            merged, base, paths, weights, scale=scale, untie=untie, max_ulps=max_ulps, **how,
            alpha=alpha, config=config, dialect=dialect, basis=basis,
        )  # fmt: skip
    values = {"base": str(base), "adapters": list(adapters), **report.as_dict()}
    sink.result(values, lambda: _text(report, every=verbose))
    if not report.passed:
        raise CheckFailedError(f"{merged}: is not {base} with {', '.join(adapters)} merged: {report.explanation}")


def _incomplete(merged: Path, missing: str) -> UsageError:
    from adaptzip.restoring.merging.provenance import load_provenance, told_command

    told = load_provenance(merged)
    known = "" if told is None else told_command(told)
    hint = f"it says of itself: {known}" if known else "say what the merged model should be made of"
    return UsageError(f"check needs {missing}", hint=hint)


def _text(report: CheckReport, *, every: bool) -> str:
    changed = [row for row in report.tensors if every or row.verdict != "exact"]
    rows = [_row(row) for row in (changed if every else changed[:_SHOWN])]
    head = ["tensor", "differing", "units", "of the update", "rule"]
    lines = [text.table(rows, head=head)] if rows else []
    lines += [f"{row.name}: {row.why}" for row in changed[: None if every else _SHOWN] if row.why]
    if len(changed) > len(rows):
        lines.append(f"{text.count(len(changed) - len(rows), 'other tensor')} with --verbose or --json")
    lines += [f"note: {note}" for note in (*report.notes, *report.config)]
    if report.left_out:
        lines.append(f"note: without {text.count(len(report.left_out), 'tensor')} of the base that it need not store")
    return "\n".join([*lines, _verdict(report)])


def _row(row: TensorCheck) -> list[str]:
    if row.verdict == "exact":
        return [row.name, "0", "", "", row.rule or ""]
    share = "" if row.relative_error is None else text.number(row.relative_error)
    ulps = "" if row.ulps is None else text.number(row.ulps)
    return [row.name, f"{row.differing:,} of {row.numbers:,}" if row.numbers else "", ulps, share, row.rule or ""]


def _verdict(report: CheckReport) -> str:
    changed = sum(row.kind != "unchanged" for row in report.tensors)
    beside = f"{text.count(changed, 'tensor')} changed, {report.unchanged:,} as in the base"
    if report.verdict == "exact":
        rule = (
            f"rule {report.rule}: {report.meaning}" if report.rule else "each tensor under its own rule, see --verbose"
        )
        return f"ok  bit for bit  ({rule}; {beside})"
    if report.verdict == "close":
        return f"ok  within {report.ulps:.3g} units of the last place: other hardware or order of sums  ({beside})"
    failed = sum(row.verdict == "no" for row in report.tensors)
    return f"NO  {report.explanation}  ({text.count(failed, 'tensor')} of {len(report.tensors) + report.unchanged:,})"
