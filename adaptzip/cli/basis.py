"""`adaptzip basis build` and `adaptzip basis show`: one basis that many adapters share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _output
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file
from adaptzip.cli._registering import register
from adaptzip.cli._requests import text_fields
from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.core.basis import Basis

Dtype = Literal["float32", "float16"]


def build(
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(help="The adapters whose updates the basis is for.", metavar="ADAPTER...", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            "-k",
            help="Most directions of a module; all that there are if left out.",
            metavar="K",
            min=1,
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", metavar="FILE")] = Path(
        "shared.basis"
    ),
    holdout: Annotated[
        list[Path] | None,
        typer.Option(
            help="An adapter outside the set, to see how well the basis suits it; may be repeated.",
            metavar="ADAPTER",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="How to store the numbers; float16 halves the file.")] = "float32",
    gradient: Annotated[
        bool, typer.Option("--gradient", help="From a base model's first training step instead (LoRA-SB).")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            help="With --gradient, or for adapters that can't be read without it: the base model.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="With --gradient: texts to train on, as .jsonl, .csv or .txt.", metavar="FILE", show_default=False
        ),
    ] = None,
    text_field: options.TextField = None,
    pair_field: options.PairField = None,
    completion_field: options.CompletionField = None,
    modules_of: Annotated[
        Path | None,
        typer.Option(
            help="With --gradient: an adapter that changes the modules wanted.", metavar="ADAPTER", show_default=False
        ),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build a basis that several adapters share.

    It holds the directions in which the updates of all of them lie, module by module. An adapter compressed
    with it, `compress --to lora-sb --basis FILE`, stores small cores and the basis's hash. First it shows how
    much of every adapter's energy the basis captures, and the error that at least remains.

    \b
    Examples:
      adaptzip basis build a/ b/ c/ -k 64 -o team.basis
      adaptzip basis build a/ b/ c/ -k 64 --holdout d/ -o team.basis
      adaptzip basis build --gradient --base base/ --calibration texts.jsonl --modules-of a/ -k 64
    """
    sources = adapters or []
    adapters_read = [*sources, *(holdout or []), *filter(None, [modules_of])]
    check_file(output, force=force, source=adapters_read, base=base, calibration=calibration)
    sink = Output(as_json, quiet)
    from adaptzip.bases.artefact import round_basis, write_basis

    fields = text_fields(calibration, text_field, pair_field, completion_field)
    if gradient:
        made = _from_gradient(sources, size, base, calibration, modules_of, fields)
        sources = []
    else:
        made = _from_adapters(sources, size, base, calibration, modules_of)
    if dtype == "float16":
        import torch

        made = round_basis(made, torch.float16)
    inside = [_captured(path, made, base) for path in sources]
    outside = [_captured(path, made, base) for path in holdout or []]
    if not as_json and (inside or outside):
        sink.result({}, lambda: captured_table(inside, outside))
    reference = write_basis(made, output, force, dtype=dtype)
    values = {
        "path": str(output),
        "bytes": output.stat().st_size,
        "size": reference.size,
        "modules": len(made.modules),
        "dtype": dtype,
        "hash": reference.hash,
        "description": reference.description,
        "adapters": inside,
        "holdout": outside,
    }
    sink.wrote(output, _summary(values), values)


def show(
    file: Annotated[Path, typer.Argument(help="A .basis file.", metavar="FILE", show_default=False)],
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(help="Adapters to measure against it.", metavar="ADAPTER...", show_default=False),
    ] = None,
    base: options.NeededBase = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a basis is made of, and how much of an adapter it captures.

    Writes nothing.

    \b
    Examples:
      adaptzip basis show team.basis
      adaptzip basis show team.basis new-adapter/
    """
    from adaptzip.bases.artefact import read_basis

    found = read_basis(file)
    measured = [_captured(path, found, base) for path in adapters or []]
    values: dict[str, Any] = {
        "path": str(file),
        "bytes": file.stat().st_size,
        "size": found.reference.size,
        "modules": len(found.modules),
        "numbers": sum(module.U.numel() + module.V.numel() for module in found.modules.values()),
        "hash": found.reference.hash,
        "description": found.reference.description,
        "adapters": measured,
    }
    Output(as_json, quiet).result(values, lambda: _shown(values))


COMMANDS = (build, show)

app = typer.Typer(rich_markup_mode=None)
register(app, COMMANDS)


@app.callback(invoke_without_command=True)
def basis(context: typer.Context) -> None:
    """Build and inspect bases that many adapters share."""
    if context.invoked_subcommand is None:
        _output.raw(context.get_help(), to_stderr=True)
        raise typer.Exit(2)


def _from_adapters(
    sources: Sequence[Path], size: int | None, base: Path | None, calibration: Path | None, modules_of: Path | None
) -> Basis:
    given = {"--calibration": calibration, "--modules-of": modules_of}
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} was given without --gradient", hint="add --gradient, or leave it out")
    if not sources:
        raise UsageError("no adapter was given to build a basis from", hint="adaptzip basis build a/ b/ -o team.basis")
    from adaptzip.bases.updates import build_basis
    from adaptzip.restoring.reading import read

    return build_basis((read(path, base=base) for path in sources), size)


def _from_gradient(
    sources: Sequence[Path],
    size: int | None,
    base: Path | None,
    calibration: Path | None,
    modules_of: Path | None,
    fields: Mapping[str, str | None],
) -> Basis:
    if sources:
        raise UsageError(
            f"{sources[0]}: --gradient takes no adapters to build from",
            hint="name the adapter whose modules are wanted with --modules-of",
        )
    if base is None or calibration is None or modules_of is None or size is None:
        raise UsageError("--gradient was given without all of --base, --calibration, --modules-of and -k")
    from adaptzip.bases.gradients import basis_from_gradients
    from adaptzip.fitting.calibration.gradients import module_gradients
    from adaptzip.models.texts.examples import read_examples
    from adaptzip.restoring.opening import tokeniser_folder
    from adaptzip.restoring.reading import read

    texts = read_examples(calibration, **fields)
    modules = list(read(modules_of, base=base).modules)
    gradients = module_gradients(base, texts, modules, tokeniser=tokeniser_folder(modules_of))
    return basis_from_gradients(gradients, size, f"gradient over {text.count(len(texts), 'text')}")


def _captured(path: Path, shared: Basis, base: Path | None) -> dict[str, Any]:
    """How much of one adapter lies in a basis."""
    from adaptzip.core.projection import captured_energy
    from adaptzip.restoring.reading import read

    found = captured_energy(read(path, base=base).modules, shared)
    worst = min(found.modules, key=lambda name: found.modules[name], default=None)
    return {
        "adapter": str(path),
        "captured_energy": found.overall,
        "relative_error": found.error,
        "worst_module": worst,
        "worst_captured": None if worst is None else found.modules[worst],
    }


def captured_table(inside: Sequence[dict[str, Any]], outside: Sequence[dict[str, Any]]) -> str:
    """How much of every adapter lies in a basis, or a bank."""
    rows = [_row(values, "") for values in inside] + [_row(values, " (outside the set)") for values in outside]
    return text.table(rows, head=["adapter", "captured", "least error", "worst module"])


def _row(values: dict[str, Any], note: str) -> list[str]:
    worst = values["worst_captured"]
    return [
        f"{values['adapter']}{note}",
        f"{100 * values['captured_energy']:.1f} %",
        text.number(values["relative_error"]),
        "-" if worst is None else f"{100 * worst:.1f} %",
    ]


def _summary(values: dict[str, Any]) -> str:
    """`1.1 MiB  (64 directions of 36 modules, updates of 2 adapters)`."""
    directions = f"{text.count(values['size'], 'direction')} of {text.count(values['modules'], 'module')}"
    return f"{text.size(values['bytes'])}  ({directions}, {values['description']})"


def _shown(values: dict[str, Any]) -> str:
    lines = text.fields(
        [
            ("made of", values["description"]),
            ("directions", f"{values['size']:,} at most"),
            ("modules", f"{values['modules']:,}"),
            ("numbers", f"{values['numbers']:,}"),
            ("size", text.size(values["bytes"])),
            ("hash", values["hash"]),
        ]
    )
    return f"{lines}\n\n{captured_table(values['adapters'], [])}" if values["adapters"] else lines
