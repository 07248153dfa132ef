"""`adaptzip store ls`, `get`, `add`, `rm` and `gc`: many adapters in one folder or bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adaptzip.cli import _completing as completing
from adaptzip.cli import _many as many
from adaptzip.cli import _options as options
from adaptzip.cli import _output
from adaptzip.cli import _show_store as show
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.cli._registering import register
from adaptzip.cli._requests import method_settings
from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.fleet.store.index import Row
    from adaptzip.fleet.store.listing import Listing

Store = Annotated[
    str,
    typer.Argument(
        help="A folder of .adz files, or a bucket, as s3://bucket/store or hf://owner/name.",
        metavar="STORE",
        show_default=False,
    ),
]


def ls(
    store: Store,
    group: Annotated[
        str | None, typer.Option(help="Only adapters of this group.", metavar="NAME", show_default=False)
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the adapters of a store.

    Each has its size, its error, and the hash of the basis or bank that it shares with others. What the index knows
    is told without reading the adapters; of a plain folder of .adz files their heads are read.

    \b
    Examples:
      adaptzip store ls adapters/
      adaptzip store ls s3://bucket/adapters --group support --json
    """
    from adaptzip.fleet.store.listing import list_store

    found = list_store(store)
    rows = [row for row in found.rows.values() if group is None or row.group == group]
    values = {
        "store": store,
        "adapters": [asdict(row) for row in rows],
        "bytes": sum(row.bytes for row in rows),
        "shared_bytes": _shared_bytes(rows, found),
        "unlisted": list(found.unlisted),
        "missing": list(found.missing),
        "damaged": dict(found.damaged),
    }
    sink = Output(as_json, quiet)
    sink.result(values, lambda: show.listed(rows, values))
    for name, message in found.damaged.items():
        sink.warning(f"{name}: {message}")
    if found.missing:
        sink.warning(f"{text.count(len(found.missing), 'row')} without a file; `adaptzip store gc` removes them")


def get(
    store: Store,
    name: Annotated[
        str, typer.Argument(help="The adapter, as `store ls` calls it.", metavar="NAME", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The file to write; with --as the folder.", metavar="PATH", show_default=False
        ),
    ],
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="Export it in this dialect, as `adaptzip export` does.",
            metavar="NAME",
            autocompletion=completing.written_dialects,
            show_default=False,
        ),
    ] = None,
    dtype: options.FactorDtype = None,
    drop_extras: options.DropExtras = False,
    base: options.NeededBase = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Get an adapter out of a store.

    Writes the .adz, and beside it the basis or bank that it refers to, under its hash, so that --basis can be their
    folder. With --as it is exported instead, and nothing else is needed.

    \b
    Examples:
      adaptzip store get adapters/ team/support -o support.adz
      adaptzip store get hf://owner/name support --as peft -o support/
    """
    given = {"--dtype": dtype, "--drop-extras": drop_extras or None, "--base": base}
    for flag, value in given.items():
        if as_ is None and value is not None:
            raise UsageError(f"{flag} was given without --as", hint=f"add --as DIALECT, or drop {flag}")
    from adaptzip.fleet.store.access import basis_of, fetch, get_from_store
    from adaptzip.fleet.store.layout import existing

    sink = Output(as_json, quiet)
    if as_ is None:
        files = get_from_store(store, name, output, force=force)
    else:
        from adaptzip.restoring.exporting import export

        tree = existing(store)
        found = fetch(tree, name)
        with sink.warnings():
            written = export(
                found.compressed, output, as_=as_, dtype=dtype, drop_extras=drop_extras, force=force, base=base,
                basis=basis_of(tree, found),
            )  # fmt: skip
        files = tuple(output / file for file in written.files) if output.is_dir() else (output,)
    size = sum(file.stat().st_size for file in files)
    values = {"name": name, "path": str(output), "files": [str(file) for file in files], "bytes": size, "as": as_}
    sink.wrote(output, f"{text.size(size)}  ({text.count(len(files), 'file')})", values)


def add(
    store: Store,
    paths: options.Sources,
    name: Annotated[
        str | None,
        typer.Option(
            help="What to call it, as team/support.  [default: as its file or folder]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="What to put them together under.", metavar="NAME", show_default=False)
    ] = None,
    share: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(help="Use a basis or bank of the store: one that others use and that pays, any, or none."),
    ] = "auto",
    to: options.To = None,
    budget: options.Size = None,
    max_error: options.MaxError = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Give the input back bit for bit.")] = False,
    setting: options.Settings = None,
    effort: options.Effort = None,
    base: options.Base = None,
    basis: options.Basis = None,
    base_name: options.BaseName = None,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    seed: options.Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Put adapters into a store, each compressed, or as it is where it is a .adz.

    An adapter is coded with a basis or bank that others in the store use, where that makes it smaller. What a .adz
    refers to goes into the store too, once for all. Of several adapters one that fails does not stop the others. No
    other adapter, and no row of the index, is written again.

    \b
    Examples:
      adaptzip store add adapters/ my-adapter/
      adaptzip store add s3://bucket/adapters my-adapter/ --name team/support --budget 64KiB
      adaptzip store add adapters/ *.adz --basis team.basis --group team
    """
    given = {
        "to": to, "budget": budget, "max_error": max_error, "lossless": lossless or None, "effort": effort,
        "base": base, "base_name": base_name, "alpha": alpha, "config": config, "dialect": dialect,
        "seed": seed or None, "options": method_settings(to, setting or []) or None,
    }  # fmt: skip
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    found = many.expanded(paths)
    if name is not None and len(found) > 1:
        raise UsageError("--name names one adapter, and there are several sources", hint="add them one by one")
    sink = Output(as_json, quiet, verbose)
    settings |= {"name": name, "group": group, "basis": basis, "share": share, "force": force}
    work = partial(_added, store, settings)
    with sink.warnings():
        if len(found) == 1:
            values = work(found[0])
            sink.wrote(f"{store.rstrip('/')}/{values['name']}.adz", show.summary(values), values)
            return
        outcomes = many.run(work, found, sink)
    many.finish(outcomes, show.table, sink)


def rm(
    store: Store,
    names: Annotated[
        list[str], typer.Argument(help="Adapters, as `store ls` calls them.", metavar="NAME...", show_default=False)
    ],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove adapters from a store.

    Nothing is removed if one of them is not there. A basis or bank that no other refers to goes with `store gc`.

    \b
    Examples:
      adaptzip store rm adapters/ team/support
      adaptzip store rm s3://bucket/adapters old-one older-one
    """
    from adaptzip.fleet.store.tidying import remove_from_store

    wanted = list(dict.fromkeys(names))
    size = remove_from_store(store, wanted)
    values = {"store": store, "names": wanted, "bytes": size}
    Output(as_json, quiet).result(values, lambda: f"removed {text.count(len(wanted), 'adapter')}, {text.size(size)}")


def gc(
    store: Store,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be removed, and remove nothing.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Tidy a store: remove what nothing refers to, and join the segments of its index.

    Bases and banks go that no adapter refers to, and no note of a job in STORE/work; drafts that killed runs left an
    hour ago or earlier; and rows without a file. Adapters without a row get theirs. No adapter is ever removed.

    \b
    Examples:
      adaptzip store gc adapters/ --dry-run
      adaptzip store gc s3://bucket/adapters
    """
    from adaptzip.fleet.store.tidying import tidy_store

    done = tidy_store(store, dry_run=dry_run)
    values = {**asdict(done), "store": store, "bytes": done.bytes, "dry_run": dry_run}
    sink = Output(as_json, quiet)
    sink.result(values, lambda: show.tidied(done, "would be " if dry_run else ""))
    for name in done.damaged:
        sink.warning(f"{name}: is no sound adapter; bases and banks stay while it is there")


COMMANDS = (ls, get, add, rm, gc)

app = typer.Typer(rich_markup_mode=None)
register(app, COMMANDS)


@app.callback(invoke_without_command=True)
def store(context: typer.Context) -> None:
    """Keep many adapters in one folder or bucket."""
    if context.invoked_subcommand is None:
        _output.raw(context.get_help(), to_stderr=True)
        raise typer.Exit(2)


def _added(store: str, settings: Mapping[str, Any], source: Path) -> dict[str, Any]:
    from adaptzip.fleet.adding import add_to_store

    return asdict(add_to_store(source, store, **settings))


def _shared_bytes(rows: Sequence[Row], found: Listing) -> int:
    """Bytes of what adapters share; each counts once."""
    hashes = {row.shared for row in rows}
    return sum(size for file, size in found.shared.items() if Path(file).stem in hashes)
