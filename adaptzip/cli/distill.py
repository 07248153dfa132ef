"""`adaptzip distill`: train a compressed adapter to act like its teacher."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _show_scores as scores
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file
from adaptzip.cli._requests import AUTO, budget_text, method_settings
from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.core.progress import Progress
    from adaptzip.distillation.distilling import Distilled
    from adaptzip.distillation.preparing import Setup
    from adaptzip.distillation.problem import Moment
    from adaptzip.reports.evaluation import Evaluation

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def _number(help: str, default: str | None = None) -> Any:
    """An option that takes a number; its default is shown unless it is said in words."""
    words = help if default is None else f"{help}  [default: {default}]"
    return typer.Option(help=words, metavar="NUMBER", show_default=default is None)


def distill(
    teacher: Annotated[Path, typer.Option(help="The adapter to act like.", metavar="ADAPTER", show_default=False)],
    base: options.TheBase,
    data: Annotated[
        str,
        typer.Option(
            help="Texts, as for `eval --data`; or self: texts that base and teacher write.",
            metavar="FILE|self",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write.", metavar="OUT.adz", show_default=False)
    ],
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A .adz file to train further, or an adapter to fit.  [default: the teacher]",
            metavar="OUT_OR_SRC",
            show_default=False,
        ),
    ] = None,
    to: options.To = None,
    budget: options.Size = None,
    params: options.Parameters = None,
    bytes_: options.Bytes = None,
    setting: options.Settings = None,
    allocate: options.Allocate = None,
    task: options.Task = None,
    text_field: options.TextField = None,
    pair_field: options.PairField = None,
    completion_field: options.CompletionField = None,
    label_field: options.LabelField = None,
    score: options.Score = None,
    held_out: Annotated[float, _number("Share of the data that is not trained on, and judges.")] = 0.1,
    max_tokens: Annotated[int, _number("Cut texts to so many tokens.")] = 256,
    packed: Annotated[bool, typer.Option("--packed", help="Join causal texts and cut them into even pieces.")] = False,
    steps: Annotated[int | None, _number("Updates to make.", "1000")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Minutes of the whole run; decide the steps.", metavar="NUMBER", show_default=False),
    ] = None,
    batch_size: Annotated[int, _number("Texts for each update, over all processes.")] = 32,
    micro_batch: Annotated[int | None, _number("Texts in memory at once.", "the batch")] = None,
    rate: Annotated[float | None, _number("Learning rate, relative.", "the method's own")] = None,
    max_time: Annotated[
        str | None,
        typer.Option(help="End training after this time, such as 90s, 10m or 2h.", metavar="TIME", show_default=False),
    ] = None,
    kl: Annotated[float, _number("Weight of the KL divergence from the teacher.")] = 1.0,
    hidden: Annotated[float, _number("Weight of the hidden states' error.")] = 0.0,
    modules: Annotated[float, _number("Weight of the error of the modules' outputs.")] = 0.0,
    labels: Annotated[float, _number("Weight of the labels' cross-entropy.")] = 0.0,
    temperature: Annotated[float, _number("Divides logits before the KL divergence.")] = 1.0,
    calibration: options.Calibration = None,
    basis: options.Basis = None,
    embed_basis: options.EmbedBasis = False,
    start: options.Start = None,
    base_name: options.BaseName = None,
    extras: options.KeepExtras = "lossless",
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    device: options.Device = "auto",
    seed: options.TrainingSeed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run was stopped.")] = False,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a compressed adapter to act like its teacher.

    Fits the teacher, or takes a file, then trains its numbers on texts, so that base and result act like base
    and teacher. Writes OUT.adz, which keeps to the budget, and shows both on texts that were held out. When it is
    stopped, OUT.adz.progress is kept for --resume, and OUT.best.adz is the best file so far.

    \b
    Examples:
      adaptzip distill --teacher my-adapter/ --base base-model/ --data texts.jsonl --budget 4kB -o small.adz
      adaptzip distill small.adz --teacher my-adapter/ --base base-model/ --data texts.jsonl -o better.adz
      adaptzip distill --teacher my-adapter/ --base base-model/ --data self --budget 100x -o small.adz
    """
    if to == AUTO:
        raise UsageError("distilling needs one method", hint="name the method with --to")
    budget = budget_text(budget, params, bytes_)
    began = time.monotonic()
    _check_one_length(steps=steps, minutes=minutes, max_time=max_time)
    seconds = None if max_time is None else _seconds(max_time)
    texts = None if data == "self" else Path(data)
    inputs: dict[str, object] = {
        "source": source, "teacher": teacher, "base": base, "data": texts, "basis": basis, "config": config,
        "calibration": calibration,
    }  # fmt: skip
    check_file(output, force=force, **inputs)
    given = {"to": to, "allocate": allocate}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = method_settings(to, setting or [])
    from adaptzip.core.budget import Budget
    from adaptzip.distillation.losses import LossWeights
    from adaptzip.distillation.preparing import DataOptions
    from adaptzip.distillation.running import Run, carry_out
    from adaptzip.distillation.schedules import Schedule
    from adaptzip.fitting.requests import Request

    # The data's fields, of which --calibration may have texts as well.
    named = {"text_field": text_field, "pair_field": pair_field, "completion_field": completion_field}
    fields: dict[str, Any] = {} if calibration is None else named
    request = Request(
        budget=Budget.of(budget), extras=extras, alpha=alpha, config=config, dialect=dialect, device=device, seed=seed,
        base=base, basis=basis, embed_basis=embed_basis, start=start, options=settings, base_name=base_name,
        calibration=calibration, **fields, **chosen,
    )  # fmt: skip
    weights = LossWeights(kl, hidden, modules, labels, temperature)
    schedule = Schedule(
        Schedule.steps if steps is None else steps, batch_size, micro_batch, rate, seconds=seconds, minutes=minutes,
        seed=seed, weights=weights,
    )  # fmt: skip
    fed = DataOptions(
        text_field, label_field, held_out, max_tokens, packed, pair_field=pair_field, completion_field=completion_field,
        score=score,
    )  # fmt: skip
    run = Run(source, output, teacher, base, data, request, schedule, fed, task)
    first = os.environ.get("RANK", "0") == "0"
    sink = Output(as_json and first, quiet or not first, verbose)
    with sink.warnings(), sink.progress() as report:
        made, setup = carry_out(run, resume=resume, force=force, began=began, say=report, report=_shown(report))
    found = _evaluation(made, setup)
    values = {"path": str(output), "teacher": str(teacher), "base": str(base), "data": data, **_values(made, setup)}
    values |= {"tokeniser": str(setup.tokeniser or base), "seed": seed, **found.as_dict()}
    del values["differences"]
    values["rows"] = [{k: v for k, v in row.items() if k not in _NOT_TOLD} for row in values["rows"]]
    if not as_json:
        sink.result(values, lambda: _table(found, setup))
    sink.wrote(output, f"{text.size(values['bytes'])}  {text.count(made.steps, 'step')}", values)


_NOT_TOLD = ("method", "bytes", "update_bytes", "metrics")
"""What `eval` says of a row, but these have no files of their own, and training counts the main metric alone."""


def _check_one_length(*, steps: int | None, minutes: float | None, max_time: str | None) -> None:
    if minutes is not None and (steps is not None or max_time is not None):
        other = "--steps" if steps is not None else "--max-time"
        raise UsageError(f"--minutes decides how long training is, and so does {other}", hint="give one of them")


def _seconds(words: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", words.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"--max-time {words}: expected a time", hint="write 90s, 10m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def _shown(report: Progress) -> Callable[[Moment], None]:
    """The progress of training, once for each per cent."""
    last = -1

    def show(moment: Moment) -> None:
        nonlocal last
        now = int(100 * moment.done)
        if now > last:
            last = now
            left = (
                f"{moment.seconds_left / 60:.0f} min" if moment.seconds_left >= 90 else f"{moment.seconds_left:.0f} s"
            )
            # Scores and embeddings decide nothing that could agree.
            alike = "" if isnan(moment.agreement) else f", agreement {100 * moment.agreement:.1f} %"
            report(f"training: loss {moment.loss:.4g}{alike}, {left} left", moment.done, 1.0)

    return show


def _evaluation(made: Distilled, setup: Setup) -> Evaluation:
    from adaptzip.reports.evaluation import Evaluation

    rows = {scores.ROWS[name]: score for name, score in made.rows.items()}
    kind = setup.problem.teacher.loaded.kind
    return Evaluation(kind, made.metric, rows, dict.fromkeys(rows), rows["teacher"].samples)


def _values(made: Distilled, setup: Setup) -> dict[str, Any]:
    from adaptzip.adz.container import writer
    from adaptzip.reports.sizes import update_bytes

    compressed = made.compressed
    parts = writer.sizes(compressed)
    return {
        "method": compressed.method,
        "options": dict(compressed.config),
        "parameters": compressed.provenance.parameters,
        "relative_error": compressed.provenance.relative_error,
        "bytes": sum(parts.values()),
        "update_bytes": update_bytes(parts),
        "source_bytes": compressed.provenance.source_bytes,
        "steps": made.steps,
        "best_step": made.step,
        "seconds": made.seconds,
        "texts": setup.texts,
        "held_out": setup.held_out,
    }


def _table(found: Evaluation, setup: Setup) -> str:
    rows = [[name, *scores.cells(found, name)] for name in found.rows]
    shown = text.table(rows, head=["", *scores.head(found)])
    own = "" if setup.tokeniser is None else f", with the tokeniser of {setup.tokeniser}"
    return f"{shown}\nover {text.count(setup.held_out, 'text')} held out{own}"
