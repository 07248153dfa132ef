"""`adaptzip publish`: an adapter as a repository of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._requests import budget_text

if TYPE_CHECKING:
    from adaptzip.reports.publishing import PublishReport


def publish(
    source: options.Source,
    repo: Annotated[str, typer.Argument(help="The repository, owner/name; made if it is not there.", metavar="REPO")],
    to: options.To = None,
    budget: options.Size = None,
    params: options.Parameters = None,
    bytes_: options.Bytes = None,
    max_error: options.MaxError = None,
    base_name: options.BaseName = None,
    base: options.NeededBase = None,
    basis: options.NeededBasis = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder to keep the files in, too.", metavar="DIR", show_default=False),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    force: options.Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Make the files, upload nothing, and show the model card.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Publish an adapter on the Hub.

    The repository has PEFT's files at its root, so that PeftModel.from_pretrained(REPO) loads it, the .adz
    beside, and the source's model card with a section on sizes, errors and how to load either. An adapter is
    compressed first, a .adz is taken as it is. Writes one commit, with the token that `hf auth login` keeps;
    with --dry-run nothing but the folder of -o.

    \b
    Examples:
      adaptzip publish my-adapter/ my-name/my-adapter --budget 20x
      adaptzip publish my-adapter.adz my-name/my-adapter --dry-run
    """
    sink = Output(as_json, quiet, verbose)
    limit = budget_text(budget, params, bytes_)
    from adaptzip.reports.publishing import publish as run

    chosen: dict[str, Any] = {} if to is None else {"to": to}
    with sink.warnings(), sink.progress() as report:
        found = run(
            source, repo, output=output, budget=limit, max_error=max_error, base_name=base_name, base=base,
            basis=basis, private=private, dry_run=dry_run, force=force, progress=report, **chosen,
        )  # fmt: skip
    values = found.as_dict() | {"dry_run": dry_run}
    if dry_run:
        sink.result(values, lambda: _told(found))
    else:
        sink.wrote(Path(found.repo), _summary(found), values)
        sink.note(found.url)


def _summary(found: PublishReport) -> str:
    packed = found.files[found.archive]
    told = f"{text.ratio(found.source_bytes, packed)}, error {text.number(found.relative_error)}"
    return f"{text.count(len(found.files), 'file')}  ({found.archive} {text.size(packed)}, {told})"


def _told(found: PublishReport) -> str:
    rows = [[name, text.size(size)] for name, size in sorted(found.files.items())]
    table = text.table(rows, head=["file", "size"])
    return f"would upload to {found.repo}  {_summary(found)}\n\n{table}\n\nREADME.md:\n\n{found.card.rstrip()}"
