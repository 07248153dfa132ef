"""What commands share that make an adapter in memory and write it: as a `.adz`, or in a dialect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _output
from adaptzip.cli import _text as text
from adaptzip.cli.export import elsewhere
from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.core.adapter import Adapter
    from adaptzip.core.budget import Budget

Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="A file .adz to compress into, else the folder or file of a dialect.",
        metavar="PATH",
        show_default=False,
    ),
]
Lossless = Annotated[bool, typer.Option("--lossless", help="Keep a .adz's factors bit for bit.")]


def check_kind(output: Path, packing: dict[str, Any], writing: dict[str, Any]) -> bool:
    """Whether a `.adz` is to be made.

    Args:
        packing: options for one, by their names in Python.
        writing: options for the files of a dialect.

    Raises:
        UsageError: if an option is for the other kind of output.
    """
    packed = output.suffix == ".adz"
    kind = "the files of a dialect" if packed else "a .adz"
    for name in (name for name, value in (writing if packed else packing).items() if value):
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        raise UsageError(f"{output}: {flag} is for {kind}", hint=f"leave {flag} out, or name another output")
    return packed


def in_bytes(budget: str | None, whole: Callable[[], int]) -> Budget | None:
    """The budget, where a share is one of as many bytes as `whole` tells."""
    from adaptzip.core.budget import Budget

    found = Budget.of(budget)
    if found is None or found.unit != "fraction":
        return found
    return Budget(found.bytes_for(whole()) or 1, "bytes")


def pack(adapter: Adapter, output: Path, settings: dict[str, Any], *, force: bool, dry_run: bool) -> dict[str, Any]:
    """Compress into a `.adz`; what there is to say of it.

    Args:
        settings: for `compress`; what is None is left to its own.
    """
    from adaptzip.adz.container.writer import size
    from adaptzip.fitting.compression import compress

    given = {name: value for name, value in settings.items() if value is not None}
    made = compress(adapter, None if dry_run else output, force=force, **given)
    return {
        "path": str(output),
        "dialect": None,
        "bytes": size(made) if dry_run else output.stat().st_size,
        "modules": len(adapter.modules),
        "error": made.provenance.relative_error,
        "left_out": [],
    }


def write(adapter: Adapter, output: Path, settings: dict[str, Any], *, force: bool, dry_run: bool) -> dict[str, Any]:
    """Write in a dialect; what there is to say of it.

    Args:
        settings: for `convert`.
    """
    from adaptzip.restoring.converting import convert

    if dry_run:
        with elsewhere(output) as path:
            report = convert(adapter, path, **settings)
    else:
        report = convert(adapter, output, force=force, **settings)
    return {
        "path": str(output),
        "dialect": report.written.dialect,
        "bytes": report.written.bytes,
        "modules": report.written.modules,
        "error": report.error,
        "left_out": list(report.written.left_out),
    }


def tell(output: Path, values: dict[str, Any], contents: str, sink: _output.Output) -> None:
    """Say what was made, or would be.

    Args:
        values: as `pack` or `write` has them, with `dry_run`.
        contents: what is in it, in words.
    """
    for what in values["left_out"]:
        sink.note(f"left out: {what}")
    kind = f" as {values['dialect']}" if values["dialect"] else ""
    summary = f"{text.size(values['bytes'])}{kind}  ({contents})"
    if values["dry_run"]:
        sink.result(values, lambda: f"would write {output}  {summary}")
    else:
        sink.wrote(output, summary, values)
