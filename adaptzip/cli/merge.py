"""`adaptzip merge`: the base model with an adapter's updates added to its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_folder

if TYPE_CHECKING:
    from adaptzip.adapter import Adapter


def merge(
    source: options.Source,
    base: Annotated[
        Path, typer.Option("--base", help="The folder of the base model.", metavar="DIR", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write.", metavar="DIR", show_default=False)
    ],
    scale: Annotated[float, typer.Option(help="Multiply every update by this.", metavar="NUMBER")] = 1.0,
    safe_merge: Annotated[
        bool,
        typer.Option("--safe-merge", help="Round each update to the weight's dtype first, as PEFT's does."),
    ] = False,
    alpha: options.Alpha = None,
    config: options.Config = None,
    basis: options.NeededBasis = None,
    device: options.Device = "cpu",
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Add an adapter to its base model's weights.

    Writes the folder given with -o: the base model's files, file by file, with changed weights, so that the
    model is never in memory as a whole. On the CPU the weights are those of PEFT's merge_and_unload, bit for
    bit.

    \b
    Examples:
      adaptzip merge my-adapter.adz --base base-model/ -o merged/
      adaptzip merge my-adapter/ --base base-model/ -o half/ --scale 0.5
    """
    check_folder(output, force=force, source=source, config=config, base=base, basis=basis)
    sink = Output(as_json, quiet, verbose)
    from adaptzip.merging import merge as run
    from adaptzip.sources import read

    sink.detail("reading the adapter")
    adapter = read(source, alpha=alpha, config=config, base=base, basis=basis)
    if dry_run:
        values = {"path": str(output)} | _plan(adapter, base, scale) | {"dry_run": True}
        sink.result(values, lambda: f"would write {output}  {_summary(values)}")
        return
    with sink.progress() as report:
        written = run(
            adapter,
            base,
            output,
            safe_merge=safe_merge,
            scale=scale,
            device=device,
            force=force,
            progress=lambda done, total: report("merging", done / total),
        )
    values = written.as_dict() | {"dry_run": False}
    sink.wrote(output, _summary(values), values)


def _plan(adapter: Adapter, base: Path, scale: float) -> dict[str, Any]:
    from adaptzip.base.model import BaseModel
    from adaptzip.merging.names import weight_file_names
    from adaptzip.merging.plan import plan_merge

    plan = plan_merge(adapter, BaseModel.open(base), scale)
    outputs = [output for shard in plan.outputs for output in shard]
    return {
        "bytes": sum(output.stored.bytes for output in outputs),
        "files": sorted([*weight_file_names(plan.base), *(other.as_posix() for other in plan.base.others)]),
        "modules": plan.modules,
        "extras": plan.extras,
    }


def _summary(values: dict[str, Any]) -> str:
    contents = [text.count(values["modules"], "module")]
    if values["extras"]:
        contents.append(text.count(values["extras"], "extra"))
    return f"{text.size(values['bytes'])}  ({', '.join(contents)} merged)"
