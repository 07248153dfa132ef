"""`adaptzip merge`: the base model with an adapter's updates added to its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _combining as combining
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._failures import stops_told
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file as check_one_file
from adaptzip.cli._paths import check_folder

if TYPE_CHECKING:
    from adaptzip.core.adapter import Adapter
    from adaptzip.restoring.merging.provenance import Origins
    from adaptzip.restoring.merging.quantised_bases import How


def merge(
    sources: combining.Sources,
    base: Annotated[
        Path,
        typer.Option(
            "--base", help="The folder of the base model, or its GGUF file.", metavar="DIR", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The folder to write, or the GGUF file.", metavar="DIR", show_default=False
        ),
    ],
    scale: Annotated[float, typer.Option(help="Multiply every update by this.", metavar="NUMBER")] = 1.0,
    subtract: Annotated[
        bool, typer.Option("--subtract", help="Take the updates away from the weights instead of adding them.")
    ] = False,
    method: combining.Combination = "cat",
    rank: combining.Rank = None,
    density: combining.Density = None,
    majority: combining.Majority = "total",
    seed: combining.Seed = 0,
    safe_merge: Annotated[
        bool,
        typer.Option("--safe-merge", help="Round each update to the weight's dtype first, as PEFT's does."),
    ] = False,
    untie: Annotated[
        bool,
        typer.Option("--untie", help="Give tied embeddings each their own updates, as the live adapter does."),
    ] = False,
    dequantise: Annotated[
        bool,
        typer.Option("--dequantise", help="Merge into a quantised base's dequantised weights, written in bfloat16."),
    ] = False,
    requantise: Annotated[
        bool,
        typer.Option(
            "--requantise", help="Quantise changed weights again as the base's were (fp8 with scales, GGUF Q8_0)."
        ),
    ] = False,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    basis: options.NeededBasis = None,
    device: options.Device = "cpu",
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Add adapters to their base model's weights.

    Writes the folder given with -o: the base model's files, file by file, with changed weights, so that the
    model is never in memory as a whole. On the CPU the weights are those of PEFT's merge_and_unload, bit for
    bit. The tokenizer is the adapter's where its folder brings one. Where transformers is installed, it must be able
    to open the result. A merge that was interrupted goes on, when it is run again, after the last file that was
    finished.

    Several adapters are made one first: with --method cat, which is their weighted sum, or another of PEFT's
    add_weighted_adapter. The tokenizer is then that of the first that brings one.

    PEFT's merge adds an update of one of two tied embeddings to both, which the live adapter does not; with --untie
    the merged model has them apart and computes what the live adapter does.

    A base in GGUF becomes another GGUF file with all that the base's says of itself. A quantised base of any form is
    refused unless --dequantise or --requantise says what to write; it is then told what share of the update rounding
    keeps.

    \b
    Examples:
      adaptzip merge my-adapter.adz --base base-model/ -o merged/
      adaptzip merge my-adapter/ --base base-model/ -o half/ --scale 0.5
      adaptzip merge style.adz:0.7 facts/ code.safetensors:0.3 --base base-model/ -o merged/
      adaptzip merge my-adapter/ --base base-model/ -o apart/ --untie
      adaptzip merge my-adapter/ --base model-q8_0.gguf -o merged.gguf --requantise
      adaptzip merge my-adapter/ --base base-model-nf4/ -o merged/ --dequantise
    """
    paths, weights = combining.weighted(sources)
    from adaptzip.checkpoints._gguf.bases import is_gguf
    from adaptzip.restoring.merging import merge as run
    from adaptzip.restoring.merging.provenance import origins_of
    from adaptzip.restoring.merging.quantised_bases import how_quantised

    check_output = check_one_file if is_gguf(base) else check_folder
    check_output(output, force=force, source=paths, config=config, base=base, basis=basis)
    sink = Output(as_json, quiet, verbose)
    how = how_quantised(dequantise, requantise, safe_merge)
    sink.detail("reading the adapter" if len(paths) == 1 else "reading the adapters")
    reading: dict[str, Any] = {"alpha": alpha, "config": config, "base": base, "basis": basis, "dialect": dialect}
    combined: dict[str, Any] = {
        "method": method, "rank": rank, "density": density, "majority": majority, "seed": seed,
    }  # fmt: skip
    with sink.warnings():
        adapter = combining.one_of(paths, weights, combined, reading)
    scale = scale * weights[0] if len(paths) == 1 else scale
    if subtract:
        combining.check_updates_alone(adapter)
        scale = -scale
    source = paths[0] if is_gguf(base) else combining.with_tokenizer(paths, base)
    origins = origins_of(paths, weights if len(paths) > 1 else [], method)
    if dry_run:
        if is_gguf(base):
            flags = {"scale": scale, "safe_merge": safe_merge, "untie": untie, "device": device}
            planned = _gguf_plan(adapter, base, output, how, flags, origins, force)
        else:
            planned = _plan(adapter, source, base, scale, untie, how)
        values = {"path": str(output)} | planned | {"dry_run": True}
        _say(sink, values)
        sink.result(values, lambda: f"would write {output}  {_summary(values)}")
        return
    with stops_told(), sink.progress() as report:
        written = run(
            adapter,
            base,
            output,
            safe_merge=safe_merge,
            scale=scale,
            device=device,
            force=force,
            untie=untie,
            dequantise=dequantise,
            requantise=requantise,
            tokenizer=source,
            origins=origins,
            progress=lambda done, total: report("merging", done / total),
        )
    values = written.as_dict() | {"dry_run": False}
    _say(sink, values)
    sink.wrote(output, _summary(values), values)


def _plan(adapter: Adapter, source: Path, base: Path, scale: float, untie: bool, how: How | None) -> dict[str, Any]:
    from adaptzip.restoring.merging.folders import merged_files, tokenizer_warnings
    from adaptzip.restoring.merging.labels import label_names
    from adaptzip.restoring.merging.plan import plan_merge
    from adaptzip.restoring.merging.quantised_bases import open_base, prepared
    from adaptzip.restoring.merging.rounding import Ledger
    from adaptzip.restoring.merging.tokenizers import adapter_folder, choose_tokenizer

    own = adapter_folder(source)
    planned = plan_merge(adapter, open_base(base, how), scale, untie=untie, labels=label_names(adapter, own))
    plan = prepared(planned, how, Ledger())
    tokenizer = choose_tokenizer(base, own)
    return {
        "bytes": sum(tensor.bytes for tensor in plan.tensors.values()),
        "files": merged_files(plan, tokenizer),
        "modules": plan.modules,
        "extras": plan.extras,
        "tokenizer": tokenizer.origin,
        "untied": plan.untied,
        "warnings": [*plan.warnings, *tokenizer_warnings(plan, tokenizer)],
        "rounding": None,
    }


def _gguf_plan(
    adapter: Adapter, base: Path, output: Path, how: How | None, flags: dict[str, Any], origins: Origins, force: bool
) -> dict[str, Any]:
    from adaptzip.restoring.merging.gguf import check_file, planned

    check_file(output, force, flags)
    return planned(adapter, base, output, how, flags, origins)


def _say(sink: Output, values: dict[str, Any]) -> None:
    for message in values["warnings"]:
        sink.warning(message)
    if values["tokenizer"] is not None:
        sink.note(f"the tokenizer is the {values['tokenizer']}'s")
    if values["rounding"] is not None:
        from adaptzip.restoring.merging.rounding import Rounding

        sink.note(Rounding(**values["rounding"]).told())


def _summary(values: dict[str, Any]) -> str:
    contents = [text.count(values["modules"], "module")]
    if values["extras"]:
        contents.append(text.count(values["extras"], "extra"))
    return f"{text.size(values['bytes'])}  ({', '.join(contents)} merged)"
