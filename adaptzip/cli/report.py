"""`adaptzip report`: one page of HTML on files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptzip.cli import _many as many
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._early import check_source
from adaptzip.cli._output import Output
from adaptzip.cli._paths import check_file


def report(
    paths: options.Sources,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page to write.", metavar="FILE", show_default=False)
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            help="The adapter that the files were made from, for errors and the frontier.",
            metavar="SRC",
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(help="What `adaptzip eval --json` printed.", metavar="FILE", show_default=False),
    ] = None,
    to: options.Methods = None,
    frontier: Annotated[
        bool, typer.Option("--frontier/--no-frontier", help="Draw error over bytes, which takes most of the time.")
    ] = True,
    title: Annotated[str | None, typer.Option(help="What stands above.", metavar="TEXT", show_default=False)] = None,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    base: options.NeededBase = None,
    basis: options.NeededBasis = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw a page on one file, or on several side by side.

    It shows where the bytes are, the bytes, energy and error of each module as heat maps over the layers,
    singular spectra, error over bytes with the files and svd beside them, where they come from, and an
    evaluation. The page is one file of HTML that loads nothing else. Without --against there are no errors of
    modules, and error over bytes only for a source that is no .adz. Writes the page.

    \b
    Examples:
      adaptzip report my-adapter.adz --against my-adapter/ -o report.html
      adaptzip report small/*.adz --against my-adapter/ --evaluation eval.json -o report.html
      adaptzip report my-adapter/ --to svd --to vblora -o report.html
    """
    sink = Output(as_json, quiet, verbose)
    sources = many.expanded(paths)
    for source in (*sources, *([against] if against is not None else [])):
        check_source(source)
        check_file(output, force=force, source=source, config=config, base=base, basis=basis, data=evaluation)
    from adaptzip.methods import REFERENCE
    from adaptzip.reports.page import report as write

    with sink.warnings(), sink.progress() as progress:
        found = write(
            sources, output, against=against, evaluation=evaluation, methods=to or (REFERENCE,), frontier=frontier,
            title=title, alpha=alpha, config=config, dialect=dialect, base=base, basis=basis, device=device, seed=seed,
            force=force, progress=progress,
        )  # fmt: skip
    sink.wrote(output, f"{text.size(found.bytes)}  ({text.count(len(found.files), 'file')})", found.as_dict())
