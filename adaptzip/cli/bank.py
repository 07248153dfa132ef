"""`adaptzip bank build` and `adaptzip bank show`: one bank of vectors that many adapters share."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _output
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file
from adaptzip.cli._registering import register
from adaptzip.cli.basis import captured_table

if TYPE_CHECKING:
    from adaptzip.core.basis import Basis


def size_option(words: str, name: str) -> Any:
    """An option for one of a bank's sizes."""
    return typer.Option(help=f"{words}; chosen by a sample if left out.", metavar=name, min=1, show_default=False)


def build(
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(help="The adapters that the bank is for.", metavar="ADAPTER...", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", metavar="FILE")] = Path(
        "shared.bank"
    ),
    vectors: Annotated[int | None, size_option("Vectors in the bank, of which one is zero", "H")] = None,
    length: Annotated[int | None, size_option("Numbers in a vector", "L")] = None,
    top_k: Annotated[int | None, size_option("Vectors that are mixed to a piece", "K")] = None,
    rank: Annotated[int | None, size_option("The most rows that a factor of a module may have", "R")] = None,
    holdout: Annotated[
        list[Path] | None,
        typer.Option(
            help="An adapter outside the set, to see how well the bank suits it; may be repeated.",
            metavar="ADAPTER",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        float,
        typer.Option(
            help="GiB that PEFT may need for an exported adapter's logits, where sizes are chosen.", metavar="GIB"
        ),
    ] = 1.0,
    base: options.NeededBase = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build a bank of vectors that many adapters share.

    Pieces of all adapters' factors are mixtures of a few of its vectors (VB-LoRA). An adapter compressed with it,
    `compress --to vblora --basis FILE`, stores indices and weights, and the bank's hash. The table shows the
    least error that every adapter can have with it.

    \b
    Examples:
      adaptzip bank build a/ b/ c/ -o team.bank
      adaptzip bank build a/ b/ c/ --holdout d/ -o team.bank
      adaptzip bank build a/ b/ c/ --vectors 512 --length 64 --top-k 2 --rank 8 -o team.bank
    """
    sources = adapters or []
    check_file(output, force=force, source=[*sources, *(holdout or [])], base=base)
    sink = Output(as_json, quiet)
    from adaptzip.bases.bank_file import write_bank
    from adaptzip.fitting.banks import build_bank

    sizes: dict[str, Any] = {"rank": rank, "length": length, "vectors": vectors, "top_k": top_k}
    made = build_bank(sources, **sizes, memory=memory, device=device, seed=seed, base=base)
    inside = [_reached(path, made, base) for path in sources]
    outside = [_reached(path, made, base) for path in holdout or []]
    if not as_json:
        sink.result({}, lambda: captured_table(inside, outside))
    write_bank(made, output, force)
    values = {**_told(output, made), "seed": seed, "adapters": inside, "holdout": outside}
    sink.wrote(output, _summary(values), values)


def show(
    file: Annotated[Path, typer.Argument(help="A .bank file.", metavar="FILE", show_default=False)],
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(help="Adapters to measure against it.", metavar="ADAPTER...", show_default=False),
    ] = None,
    base: options.NeededBase = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a bank holds, and the least error that an adapter can have with it.

    Writes nothing.

    \b
    Examples:
      adaptzip bank show team.bank
      adaptzip bank show team.bank new-adapter/
    """
    from adaptzip.bases.bank_file import read_bank

    found = read_bank(file)
    values = {**_told(file, found), "adapters": [_reached(path, found, base) for path in adapters or []]}
    Output(as_json, quiet).result(values, lambda: _shown(values))


COMMANDS = (build, show)

app = typer.Typer(rich_markup_mode=None)
register(app, COMMANDS)


@app.callback(invoke_without_command=True)
def bank(context: typer.Context) -> None:
    """Build and inspect banks of vectors that many adapters share."""
    if context.invoked_subcommand is None:
        _output.raw(context.get_help(), to_stderr=True)
        raise typer.Exit(2)


def _told(path: Path, found: Basis) -> dict[str, Any]:
    """What a file holds, as JSON values."""
    shape = {} if found.bank is None else asdict(found.bank.shape)
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        **shape,
        "numbers": shape["vectors"] * shape["length"],
        "hash": found.reference.hash,
        "description": found.reference.description,
    }


def _reached(path: Path, shared: Basis, base: Path | None) -> dict[str, Any]:
    """What the bank makes of one adapter at best."""
    from adaptzip.fitting.banks import reached

    found = reached(path, shared, base=base)
    name, share = found.worst or (None, None)
    return {
        "adapter": str(path),
        "captured_energy": 1 - found.error**2,
        "relative_error": found.error,
        "worst_module": name,
        "worst_captured": share,
        "bytes": found.bytes,
    }


def _summary(values: dict[str, Any]) -> str:
    """`24.9 KiB  (512 vectors of 64, updates of 64 adapters)`."""
    return f"{text.size(values['bytes'])}  ({_vectors(values)}, {values['description']})"


def _vectors(values: dict[str, Any]) -> str:
    return f"{text.count(values['vectors'], 'vector')} of {values['length']:,}"


def _shown(values: dict[str, Any]) -> str:
    lines = text.fields(
        [
            ("made of", values["description"]),
            ("bank", _vectors(values)),
            ("mixtures", f"of {values['top_k']}, weights in {values['levels']} levels"),
            ("rank", f"{values['rank']:,} at most"),
            ("numbers", f"{values['numbers']:,}"),
            ("size", text.size(values["bytes"])),
            ("hash", values["hash"]),
        ]
    )
    return f"{lines}\n\n{captured_table(values['adapters'], [])}" if values["adapters"] else lines
