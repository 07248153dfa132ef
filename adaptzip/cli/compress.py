"""`adaptzip compress`: the smallest file for a size or an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file, default_output
from adaptzip.methods import REFERENCE

if TYPE_CHECKING:
    from adaptzip.compressed import Compressed

Extras = Literal["lossless", "float16", "bfloat16", "int8"]


def _method_names() -> list[str]:
    """Completion of `--to`; it costs no torch."""
    from adaptzip.methods import names

    return list(names())


def compress(
    source: options.Source,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="The method; see `adaptzip methods`.", metavar="METHOD", autocompletion=_method_names
        ),
    ] = REFERENCE,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "-b",
            help="Upper limit: 50k or 1.2M stored parameters, 64KiB or 2MB on disk, 2% or 100x of the source.",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Upper limit of the relative error |dW - dW'| / |dW|; 0.1 where no budget is given.",
            metavar="X",
            show_default=False,
        ),
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Give the input back bit for bit.")] = False,
    extras: Annotated[
        Extras, typer.Option(help="How to keep what is no factor: heads, biases, embeddings.")
    ] = "lossless",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="An option of the method; see `adaptzip methods METHOD`.",
            metavar="KEY=VALUE",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write.  [default: beside the source, under its name with .adz]",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    alpha: options.Alpha = None,
    config: options.Config = None,
    device: options.Device = "auto",
    seed: Annotated[int, typer.Option(help="Equal input and seed give equal bytes.", metavar="NUMBER")] = 0,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compress a LoRA adapter into one .adz file.

    Writes FILE; without -o this is lora.adz beside lora.safetensors, and my-adapter.adz beside the folder
    my-adapter/. With neither a budget nor an error, the file is the smallest whose relative error is at most
    0.1.

    \b
    Examples:
      adaptzip compress my-adapter/
      adaptzip compress my-adapter/ --budget 64KiB -o small.adz
      adaptzip compress lora.safetensors --to svd --budget 50k
      adaptzip compress my-adapter/ --lossless -o exact.adz
    """
    from adaptzip.sources import source_bytes

    size = source_bytes(source)
    target = output or default_output(source)
    sink = Output(as_json, quiet, verbose)
    settings: dict[str, Any] = {
        "to": to,
        "budget": budget,
        "max_error": max_error,
        "extras": extras,
        "alpha": alpha,
        "config": config,
        "device": device,
        "seed": seed,
        "options": _method_settings(to, setting or []),
    }
    if dry_run:
        values = _preview(source, size, lossless=lossless, settings=settings) | {"path": str(target)}
        sink.result(values, lambda: f"would write {target}  {_summary(values)}\n{_counts(values)}")
        return
    check_file(target, source, force=force)
    from adaptzip.compression import compress as run

    with sink.warnings(), sink.progress() as report:
        made = run(source, target, lossless=lossless, force=force, progress=report, **_flat(settings))
    values = {"path": str(target), **_values(made, target.stat().st_size, size), "dry_run": False}
    sink.detail(_counts(values))
    sink.wrote(target, _summary(values), values)


def _preview(source: Path, size: int, *, lossless: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """What would come of it: exactly for --lossless, which needs no search, else as the method predicts."""
    from adaptzip.compression import compress as run
    from adaptzip.container import writer
    from adaptzip.jobs import Request
    from adaptzip.planning import plan

    if lossless:
        made = run(source, lossless=True, **_flat(settings))
        return _values(made, writer.size(made), size) | {"dry_run": True}
    planned = plan(source, Request(**settings))
    return {
        "method": planned.method,
        "bytes": planned.bytes,
        "source_bytes": size,
        "ratio": size / planned.bytes,
        "parameters": planned.parameters,
        "relative_error": planned.relative_error,
        "kept_modules": len(planned.ranks),
        "lossless": False,
        "dry_run": True,
    }


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as `adaptzip.compress` takes them."""
    return {**{key: value for key, value in settings.items() if key != "options"}, **settings["options"]}


def _method_settings(method: str, items: list[str]) -> dict[str, Any]:
    if not items:
        return {}
    from adaptzip.cli._settings import parse_settings, settings_of
    from adaptzip.methods import load

    return parse_settings(items, method, settings_of(load(method).config_type))


def _values(made: Compressed, size: int, source_size: int) -> dict[str, Any]:
    return {
        "method": made.method,
        "bytes": size,
        "source_bytes": source_size,
        "ratio": source_size / size,
        "parameters": made.provenance.parameters,
        "relative_error": made.provenance.relative_error,
        "modules": len(made.sites),
        "kept_modules": sum(len(chunk) > 0 for chunk in made.chunks),
        "module_bytes": made.payload_bytes,
        "extras": len(made.extras.entries),
        "extras_bytes": len(made.extras.payload),
        "lossless": made.lossless,
        "seed": made.provenance.seed,
    }


def _summary(values: dict[str, Any]) -> str:
    """`112.2 KiB  (1.9 % of 5.8 MiB, 52x, error 0.0998)`."""
    size, source = values["bytes"], values["source_bytes"]
    parts = f"{text.share(size, source)} of {text.size(source)}, {text.ratio(source, size)}"
    return f"{text.size(size)}  ({parts}, error {text.number(values['relative_error'])})"


def _counts(values: dict[str, Any]) -> str:
    kept = text.count(values["kept_modules"], "module")
    return f"method {values['method']}, {text.count(values['parameters'], 'number')} stored for {kept}"
