"""`adaptzip export`: an adapter as other programs load it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _many as many
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._compressing import source_files
from adaptzip.cli._failures import stops_told
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_export, default_output
from adaptzip.errors import UsageError
from adaptzip.files.names import names_a_file

if TYPE_CHECKING:
    from adaptzip.restoring.exporting import ExportReport


def export(
    paths: options.Sources,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder to write, or a file .safetensors or .gguf where the dialect has one.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    output_dir: options.OutputDir = None,
    jobs: options.Jobs = 1,
    as_: options.As = None,
    portable: Annotated[
        bool,
        typer.Option("--portable", help="Write only what every engine reads: one rank, alpha equal to it."),
    ] = False,
    drop_extras: options.DropExtras = False,
    dtype: options.FactorDtype = None,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    base: options.NeededBase = None,
    basis: options.NeededBasis = None,
    base_name: options.BaseName = None,
    card: Annotated[
        str | None,
        typer.Option(
            help="Add the .adz and the README.md that `publish` writes, for an upload of your own to this repository.",
            metavar="OWNER/NAME",
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write adapters as other programs load them.

    Writes a folder; with --as peft it holds adapter_config.json and adapter_model.safetensors, which
    PEFT loads with the same update. Some dialects hold a method's own tensors, such as peft-vblora those of a
    .adz made with --to vblora. What was written is read back and held against the adapter before it appears.
    What the dialect has no room for is listed, and refused unless --drop-extras leaves it out. A PEFT folder
    keeps the README.md of a source folder, with a section that tells how to load it. Several sources go into
    folders in --output-dir; one that fails does not stop the others, and what an earlier run made of them is
    left.

    \b
    Examples:
      adaptzip export my-adapter.adz --as peft -o restored/
      adaptzip export my-adapter.adz --portable --dtype bfloat16 -o for-serving/
      adaptzip export small.adz --as peft-vblora -o vblora/
      adaptzip export my-adapter.adz --as mlx -o for-mlx/
      adaptzip export my-adapter.adz --card my-name/my-adapter -o for-the-hub/
      adaptzip export *.adz --as peft --output-dir restored/
      adaptzip export my-adapter.adz --as gguf --base base-model/ --dtype float16 -o for-llama-cpp/
    """
    sink = Output(as_json, quiet, verbose)
    settings: dict[str, Any] = {
        "as_": as_, "portable": portable, "drop_extras": drop_extras, "dtype": dtype, "alpha": alpha,
        "config": config, "dialect": dialect, "base": base, "basis": basis, "base_name": base_name,
        "card": card,
    }  # fmt: skip
    sources = many.expanded(paths)
    if output_dir is not None:
        if output is not None:
            raise UsageError("-o and --output-dir both name the output", hint="drop one of them")
        _several(sources, output_dir, settings, jobs, sink, force=force, dry_run=dry_run)
        return
    if output is None or len(sources) > 1:
        one = len(sources) == 1
        raise UsageError(
            "no output is named" if one else "there are several sources",
            hint="name the output with -o" if one else "name a folder with --output-dir",
        )
    _one(sources[0], output, settings, sink, force=force, dry_run=dry_run)


def _one(source: Path, output: Path, settings: dict[str, Any], sink: Output, *, force: bool, dry_run: bool) -> None:
    inputs = {name: settings[name] for name in ("config", "base", "basis")}
    check_export(output, force=force, source=source, **inputs)
    from adaptzip.restoring.exporting import export as write

    sink.detail("reading the adapter and writing it")
    if dry_run:
        with sink.warnings(), elsewhere(output) as path:
            report = write(source, path, **settings)
        values = _values(output, report) | {"dry_run": True}
        told = [f"would write {output}  {_summary(report)}", f"files: {', '.join(report.files)}", *said(report)]
        sink.result(values, lambda: "\n".join(told))
        return
    with sink.warnings():
        report = write(source, output, force=force, **settings)
    for line in said(report):
        sink.note(line)
    sink.wrote(output, _summary(report), _values(output, report) | {"dry_run": False})


def _several(
    sources: list[Path], folder: Path, settings: dict[str, Any], jobs: int, sink: Output, *, force: bool, dry_run: bool
) -> None:
    """Export several adapters, each into a folder of its name."""
    targets = many.targets_in(folder, sources, lambda source: default_output(source).stem)
    note = None if dry_run else many.journal_of(folder, "export", settings)
    place = many.Folder.of(targets, note, source_files, force=force)
    with sink.warnings(), stops_told():
        work = partial(_worked, targets, settings, dry_run, frozenset(sources) if force else place.replaced())
        outcomes = many.run(work, sources, sink, jobs=jobs, place=place)
    many.finish(outcomes, _table, sink)


def _worked(
    targets: Mapping[Path, Path], settings: dict[str, Any], dry_run: bool, replaced: Collection[Path], source: Path
) -> dict[str, Any]:
    """Export one of several adapters, perhaps in a process of its own.

    Args:
        replaced: sources whose output may be replaced.
    """
    output, force = targets[source], source in replaced
    check_export(
        output, force=force or dry_run, source=source, **{name: settings[name] for name in ("config", "base", "basis")}
    )
    from adaptzip.restoring.exporting import export as write

    if dry_run:
        with elsewhere(output) as path:
            return _values(output, write(source, path, **settings)) | {"dry_run": True}
    return _values(output, write(source, output, force=force, **settings)) | {"dry_run": False}


def _table(outcomes: Sequence[many.Outcome]) -> str:
    rows = [
        [
            outcome.values["path"],
            outcome.values["dialect"],
            text.size(outcome.values["bytes"]),
            f"{outcome.values['modules']:,}",
            f"{len(outcome.values['left_out'])} kinds" if outcome.values["left_out"] else "",
            "as before" if outcome.skipped else "",
        ]
        for outcome in outcomes
    ]
    return text.table(rows, head=["folder", "dialect", "size", "modules", "left out", ""])


@contextmanager
def elsewhere(output: Path) -> Iterator[Path]:
    """A place for what a rehearsal writes, which is a file or a folder as `output` would be."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / (output.name if names_a_file(output) else "export")


def _summary(report: ExportReport) -> str:
    contents = f"{text.count(len(report.files), 'file')}, {text.count(report.modules, 'module')}"
    if report.loading_bytes is not None:
        contents += f"; loading it takes {text.size(report.loading_bytes)} of memory"
    return f"{text.size(report.bytes)}  ({contents})"


def said(report: ExportReport) -> list[str]:
    """What else is to be said of files that were written, a line each."""
    return [f"left out: {what}" for what in report.left_out] + ([report.caution] if report.caution else [])


def _values(output: Path, report: ExportReport) -> dict[str, Any]:
    return {
        "path": str(output),
        "dialect": report.dialect,
        "bytes": report.bytes,
        "files": list(report.files),
        "modules": report.modules,
        "loading_bytes": report.loading_bytes,
        "left_out": list(report.left_out),
    }
