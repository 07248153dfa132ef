"""`adaptzip merge`: the base model with an adapter's updates added to its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adaptzip.cli import _combining as combining
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._failures import stops_told
from adaptzip.cli._output import Output
from adaptzip.files.inputs import check_apart


def merge(
    sources: combining.Sources,
    base: Annotated[
        Path,
        typer.Option(
            "--base",
            help="The base model: its folder or name on the Hub, a diffusers pipeline, an image model's safetensors "
            "file, or a GGUF file.  [required]",
            metavar="DIR|FILE",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The folder to write, or a file of the same kind where the base is one file.  [required]",
            metavar="DIR|FILE",
            show_default=False,
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

    Writes what -o names, in the form of the base: its files, one by one, with changed weights, so that the
    model is never in memory as a whole. On the CPU the weights are those of PEFT's merge_and_unload, bit for
    bit. The tokenizer is the adapter's where its folder brings one. Where transformers is installed, it must be able
    to open the result. A merge that was interrupted goes on, when it is run again, after the last file that was
    finished.

    Several adapters are added up, each times its weight; --method chooses another way of PEFT's
    add_weighted_adapter. The tokenizer is then that of the first that brings one.

    A LoRA of an image model is merged into all components of a pipeline that it changes, or into a checkpoint of one
    file in the names of the original implementation, whatever dialect it is in.

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
      adaptzip merge anime.safetensors --base sd_xl_base_1.0.safetensors -o sdxl-anime.safetensors
    """
    paths, weights = combining.weighted(sources)
    from adaptzip.restoring.merging import merge as run
    from adaptzip.restoring.merging.any_base import check, foretell
    from adaptzip.restoring.merging.provenance import origins_of

    asked: dict[str, Any] = {
        "safe_merge": safe_merge, "untie": untie, "dequantise": dequantise, "requantise": requantise,
    }  # fmt: skip
    check_apart(output, source=paths, config=config, base=base, basis=basis)
    check(base, output, force=force, **asked)
    sink = Output(as_json, quiet, verbose)
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
    origins = origins_of(paths, weights if len(paths) > 1 else [], combined)
    how = asked | {"scale": scale, "tokenizer": combining.with_tokenizer(paths, base), "origins": origins}
    if dry_run:
        values = foretell(adapter, base, output, **how).as_dict() | {"dry_run": True}
        _say(sink, values)
        sink.result(values, lambda: f"would write {output}  {_summary(values)}")
        return
    with stops_told(), sink.progress() as report:
        written = run(
            adapter,
            base,
            output,
            device=device,
            force=force,
            **how,
            progress=report,
        )
    values = written.as_dict() | {"dry_run": False}
    _say(sink, values)
    sink.wrote(output, _summary(values), values)


def _say(sink: Output, values: dict[str, Any]) -> None:
    for message in values["warnings"]:
        sink.warning(message)
    if values["resumed"]:
        sink.note(f"{text.count(values['resumed'], 'weight file')} of a run that was stopped did for this one")
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
