"""`adaptzip extract`: an adapter out of a base model and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adaptzip.cli import _making as making
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_export
from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.core.budget import Budget
    from adaptzip.restoring.extracting.extraction import Rank

_CODED = 0.5
"""Bytes of a number in a .adz, by which a budget's ranks are bounded."""
_BYTES = {"float16": 2.0, "bfloat16": 2.0, "q8_0": 1.0}
"""The same in the files of a dialect, by dtype."""


def extract(
    base: options.TheBase,
    tuned: Annotated[
        Path, typer.Option("--tuned", help="The folder of what became of it.", metavar="DIR", show_default=False)
    ],
    output: making.Output,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            help="Most directions of a module, or full.  [default: 32; full with --max-error, by the size with "
            "--budget]",
            metavar="NUMBER",
            show_default=False,
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Upper limit of the relative error over all modules; a .adz without it or a budget adds 0.1 at most.",
            metavar="X",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "-b",
            help="Upper limit of the output: 64KiB or 20MB on disk, 1% or 100x of the tuned model's weights; for a "
            ".adz 50k or 1.2M stored parameters, too.",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
    embeddings: Annotated[
        Literal["update", "whole"],
        typer.Option(help="Treat embeddings as other matrices, or keep changed ones as they are."),
    ] = "update",
    to: options.To = None,
    lossless: making.Lossless = False,
    as_: options.As = None,
    dtype: options.FactorDtype = None,
    drop_extras: options.DropExtras = False,
    base_name: options.BaseName = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make an adapter of what fine-tuning changed in a model.

    Writes a .adz, or a folder or file of a dialect, by the name given with -o. Both models are read tensor by tensor.
    The difference of each matrix becomes a low-rank update, of 32 directions where no limit is given; norms, biases,
    new heads and embeddings of another vocabulary are kept as they are, and what is the same in both is left out. The
    error that is printed is measured, over all modules together.

    --max-error and --budget choose ranks for all modules together: in a .adz along with its coding, in the files of a
    dialect alone. merge adds the adapter to the base again. Of two diffusers pipelines the denoisers and text encoders
    are compared.

    \b
    Examples:
      adaptzip extract --base base-model/ --tuned my-fine-tune/ -o my-adapter/
      adaptzip extract --base base-model/ --tuned my-fine-tune/ -o my-adapter.adz --budget 20MB
      adaptzip extract --base base-model/ --tuned my-fine-tune/ -o my-adapter/ --max-error 0.3 --dtype bfloat16
    """
    check_export(output, force=force, base=base, tuned=tuned)
    packing: dict[str, Any] = {"to": to, "lossless": lossless}
    writing: dict[str, Any] = {"as_": as_, "dtype": dtype, "drop_extras": drop_extras}
    packed = making.check_kind(output, packing, writing)
    if lossless and (max_error is not None or budget is not None):
        raise UsageError("--lossless keeps factors as they are, so that neither --budget nor --max-error has a meaning")
    sink = Output(as_json, quiet, verbose)
    with sink.warnings():
        from adaptzip.restoring.extracting.extraction import SPARED, both, extraction, left_of

        limit = making.in_bytes(budget, lambda: _weight_bytes(tuned))
        cut = max_error is not None or limit is not None
        how: dict[str, Any] = {
            "embeddings": embeddings,
            "base_name": base_name,
            "numbers": None if limit is None else _numbers(limit, packed, dtype),
            "spared": None if max_error is None else max_error / SPARED,
            "rank": "full" if rank is None and max_error is not None and limit is None else _rank(rank),
            "dtype": None if cut or dtype == "q8_0" else dtype,
        }
        with sink.progress() as report:
            found = extraction(base, tuned, progress=report, **how)
        further = None if max_error is None else left_of(max_error, found.error)
        limits = {"budget": limit, "max_error": further}
        if packed:
            values = making.pack(found.adapter, output, packing | limits, force=force, dry_run=dry_run)
        else:
            values = making.write(
                found.adapter, output, writing | limits | {"base": base}, force=force, dry_run=dry_run
            )
    values |= {
        "error": both(found.error, values["error"] or 0.0),
        "extras": len(found.adapter.extras),
        "unchanged": found.unchanged,
        "missing": list(found.missing),
        "approximate": found.approximate,
        "dry_run": dry_run,
    }
    making.tell(output, values, _contents(values), sink)


def _rank(given: str | None) -> Rank:
    """Raises: UsageError: if it is neither a number nor the word."""
    if given is None:
        return None
    if given == "full":
        return "full"
    if not given.isdecimal():
        raise UsageError(f"--rank {given}: expected a number or full", hint="write --rank 32 or --rank full")
    return int(given)


def _weight_bytes(tuned: Path) -> int:
    from adaptzip.restoring.extracting.pipelines import models_of

    return sum(shard.path.stat().st_size for model in models_of(tuned).values() for shard in model.shards)


def _numbers(limit: Budget, packed: bool, dtype: str | None) -> float:
    """How many numbers a budget has room for."""
    if limit.unit == "parameters":
        return limit.amount
    return limit.amount / (_CODED if packed else _BYTES.get(dtype or "", 4.0))


def _contents(values: dict[str, Any]) -> str:
    made = [text.count(values["modules"], "module")]
    if values["extras"]:
        made.append(text.count(values["extras"], "extra"))
    made.append(f"error {values['error']:.4f}")
    if values["unchanged"]:
        made.append(f"{text.count(values['unchanged'], 'tensor')} unchanged")
    return ", ".join(made)
