"""`adaptzip eval`: adapters on data, held against their teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _show_scores as scores
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file
from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.core.adapter import Adapter
    from adaptzip.reports.evaluation import Evaluation
    from adaptzip.restoring.functions import Functions


def eval(
    teacher: Annotated[
        Path,
        typer.Option(
            help="The adapter that the others are held against, as a source.", metavar="SRC", show_default=False
        ),
    ],
    base: options.TheBase,
    data: Annotated[
        Path,
        typer.Option(
            help="Texts: .jsonl, .csv, .txt or .parquet, or a data set of the Hub, as owner/name:test.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Adapters of any dialect, or .adz files.", metavar="SRC...", show_default=False),
    ] = None,
    text_field: options.TextField = None,
    pair_field: options.PairField = None,
    completion_field: options.CompletionField = None,
    label_field: options.LabelField = None,
    score: options.Score = None,
    task: options.Task = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What is shown beside the distance, and tells the gain: accuracy, f1, macro-f1, mcc, exact-match, "
            "loss, squared-error, rank-correlation or correlation.  [default: as the model's kind]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Look only at the part of the data that distilling with this share and --seed would hold out.",
            metavar="SHARE",
            show_default=False,
        ),
    ] = None,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged",
            help="Let an update of tied embeddings count in both, as merged; else only where the adapter has it.",
        ),
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="Cut texts to so many tokens.", metavar="NUMBER", min=1)] = 256,
    batch: Annotated[int, typer.Option(help="Texts that are run together.", metavar="NUMBER", min=1)] = 16,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw it, as .png, .svg or .pdf; needs matplotlib.", metavar="FILE", show_default=False),
    ] = None,
    basis: options.NeededBasis = None,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    device: options.Device = "auto",
    seed: Annotated[
        int, typer.Option(help="Draws what --held-out holds out, and the texts of intervals.", metavar="NUMBER")
    ] = 0,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run adapters on data, and hold them against their teacher.

    Shows the KL divergence from the teacher and how often both say the same, of scores the squared error and the
    rank correlation; where there are labels, also the accuracy, loss, F1 or error, and the gain: the share of the
    teacher's improvement over no adapter that is kept. "No adapter" keeps the teacher's head. Below are the
    differences between adapters, with 95 % intervals over the texts. The teacher's own tokeniser is used where its
    folder has one. Writes nothing but the plot.

    \b
    Examples:
      adaptzip eval my-adapter.adz --teacher my-adapter/ --base base-model/ --data texts.jsonl
      adaptzip eval *.adz --teacher my-adapter/ --base base-model/ --data rows.csv --label-field label
      adaptzip eval a.adz b.adz --teacher my-adapter/ --base base-model/ --data r.csv --label-field label --metric mcc
      adaptzip eval *.adz --teacher my-adapter/ --base base-model/ --data texts.jsonl --plot sizes.png
    """
    sink = Output(as_json, quiet, verbose)
    if plot is not None:
        from adaptzip.reports.plots import check_plot

        if not sources:
            raise UsageError("there is nothing to draw", hint="give PEFT folders or .adz files besides the teacher")
        check_plot(plot)
        check_file(plot, force=force, source=sources, teacher=teacher, config=config, base=base, basis=basis, data=data)
    paths = _by_name(sources or [])
    adapters = _read([teacher, *paths.values()], base, basis, alpha, config, dialect)
    from adaptzip.models.live.batches import hold_out, read_examples
    from adaptzip.reports.evaluation import TEACHER, evaluate
    from adaptzip.reports.sizes import sizes_of
    from adaptzip.restoring.opening import tokeniser_folder

    students = {name: adapters[path] for name, path in paths.items()}
    tokeniser = tokeniser_folder(teacher)
    with sink.warnings(), sink.progress() as report:
        whole = read_examples(
            data,
            text_field=text_field,
            pair_field=pair_field,
            completion_field=completion_field,
            label_field=label_field,
        )
        examples = whole if held_out is None else hold_out(whole, held_out, seed)[1]
        found = evaluate(
            base,
            adapters[teacher],
            students,
            examples,
            batch=batch,
            max_tokens=max_tokens,
            device=device,
            kind=task,
            merged=merged,
            tokeniser=tokeniser,
            scored=score,
            whole=whole,
            metric=metric,
            seed=seed,
            progress=report,
        ).with_sizes({name: sizes_of(path, adapters[path]) for name, path in {TEACHER: teacher, **paths}.items()})
    values = {
        "path": None if plot is None else str(plot),
        "teacher": str(teacher),
        "base": str(base),
        "data": str(data),
        "tokeniser": str(tokeniser or base),
        "texts": found.texts,
        "merged": merged,
        "held_out": held_out,
        "max_tokens": max_tokens,
        "seed": seed,
        **found.as_dict(),
    }
    if plot is None:
        sink.result(values, lambda: _text(found, tokeniser, verbose))
        return
    from adaptzip.reports.plots import draw_evaluation

    draw_evaluation(found, plot, title=teacher.resolve().name, force=force)
    if not as_json:
        sink.result(values, lambda: _text(found, tokeniser, verbose))
    sink.wrote(plot, text.count(len(paths), "adapter"), values)


def _by_name(sources: list[Path]) -> dict[str, Path]:
    named = {str(path): path for path in sources}
    twice = [name for name in named if sum(str(path) == name for path in sources) > 1]
    if twice:
        raise UsageError(f"{twice[0]} was given twice", hint="give every adapter once")
    return named


def _read(
    paths: list[Path], base: Path, basis: Path | None, alpha: float | None, config: Path | None, dialect: str | None
) -> dict[Path, Adapter | Functions]:
    """The adapters; --alpha and --config are for those that have no configuration of their own, --from for no .adz."""
    from adaptzip.checkpoints._places import config_file
    from adaptzip.restoring.functions import read_either
    from adaptzip.restoring.opening import archive_file, weight_file

    read_as = {path: dialect if archive_file(path) is None else None for path in paths}
    bare = {p for p in paths if archive_file(p) is None and not config_file(weight_file(p)).is_file()}
    given = "--alpha" if alpha is not None else "--config"
    if (alpha is not None or config is not None) and not bare:
        raise UsageError(f"{given} was given, but every adapter has its own configuration", hint=f"drop {given}")
    return {
        path: read_either(path, alpha=alpha, config=config, basis=basis, base=base, dialect=read_as[path])
        if path in bare
        else read_either(path, basis=basis, base=base, dialect=read_as[path])
        for path in paths
    }


def _text(found: Evaluation, tokeniser: Path | None, verbose: bool) -> str:
    """The table, over what, and the differences; `tokeniser` is the teacher's own where it has one."""
    rows = []
    for name in found.rows:
        sizes = found.sizes.get(name)
        size = ["-", "-"] if sizes is None else [text.size(sizes.bytes), text.size(sizes.update_bytes)]
        rows.append([name, *size, *scores.cells(found, name)])
    head = ["adapter", "size", "update", *scores.head(found)]
    unit = {"causal": "token", "seq2seq": "token", "tokens": "token"}.get(found.kind, "text")
    over = text.count(found.texts, "text") + ("" if unit == "text" else f", {text.count(found.samples, unit)}")
    told = "" if tokeniser is None else f"\nwith the tokeniser of {tokeniser}"
    differences = scores.differences(found, every=verbose)
    below = f"\n\n{differences}" if differences else ""
    return f"{text.table(rows, head=head)}\nover {over}{told}{below}"
