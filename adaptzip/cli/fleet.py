"""`adaptzip fleet`: jobs over many adapters at once, into a store."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adaptzip.cli import _options as options
from adaptzip.cli import _output
from adaptzip.cli import _show_fleet as show
from adaptzip.cli import _text as text
from adaptzip.cli._failures import stops_told
from adaptzip.cli._flags import KEYWORD, in_flags
from adaptzip.cli._output import Output
from adaptzip.cli._registering import register
from adaptzip.cli.bank import size_option
from adaptzip.core.progress import Progress

if TYPE_CHECKING:
    from adaptzip.fleet.engines import Engine
    from adaptzip.fleet.running import FleetResult

Members = Annotated[
    list[Path],
    typer.Argument(
        help="Adapters, as folders or files, folders of adapters at any depth, or patterns such as 'adapters/*'.",
        metavar="SRC...",
        show_default=False,
    ),
]
Store = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        help="The store: a folder, or a bucket as fsspec names it, such as s3://bucket/store.",
        metavar="STORE",
        show_default=False,
    ),
]
Kept = Annotated[
    str,
    typer.Argument(help="The store: a folder, or a bucket as fsspec names it.", metavar="STORE", show_default=False),
]
EngineName = Annotated[
    Literal["local", "ray"], typer.Option("--engine", help="Who does the work: processes here, or Ray's workers.")
]
Rank = Annotated[
    int | None,
    typer.Option(
        help="Which of --world-size runs of this command this is, as on machines that see one store.",
        metavar="NUMBER",
        min=0,
        show_default=False,
    ),
]
WorldSize = Annotated[
    int | None,
    typer.Option(help="How many runs of this command share the work.", metavar="NUMBER", min=1, show_default=False),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="The Ray cluster, such as ray://head:10001; Ray is started here if left out.",
        metavar="ADDRESS",
        show_default=False,
    ),
]
Wait = Annotated[
    float, typer.Option(help="Seconds that a rank waits for others that finish nothing.", metavar="SECONDS", min=0.0)
]


def basis(
    fleet: Members,
    store: Store,
    size: Annotated[int, typer.Option("--size", "-k", help="Most directions of a module.", metavar="K", min=1)] = 64,
    share: Annotated[
        float,
        typer.Option(help="Of the members' energy that a basis is to hold, with the fewest directions.", metavar="X"),
    ] = 0.9,
    hold_out: Annotated[
        float, typer.Option(help="Share of each group that is left out, to measure the basis on.", metavar="X")
    ] = 0.1,
    groups: Annotated[
        str, typer.Option(help="How many groups to divide adapters of one base into, or auto.", metavar="NUMBER")
    ] = "auto",
    mean: Annotated[bool, typer.Option("--mean/--no-mean", help="Keep the mean update beside the directions.")] = True,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="How to store the directions.")] = "float16",
    max_error: Annotated[
        float, typer.Option(help="The error at which adapters with the basis and without are compared.", metavar="X")
    ] = 0.2,
    base: options.NeededBase = None,
    engine: EngineName = "local",
    jobs: options.Jobs = 1,
    rank: Rank = None,
    world_size: WorldSize = None,
    address: Address = None,
    wait: Wait = 3600.0,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Build the bases that a fleet's adapters share.

    Adapters of one base and shapes are put into groups by how far their updates lie in common directions. Each
    group gets a basis, in the store by its hash. What it holds is measured on members and on adapters left out:
    beside it stands what their mean alone would do, and svd at the same bytes in total.

    \b
    Examples:
      adaptzip fleet basis adapters/ -o store/ --jobs 8
      adaptzip fleet basis adapters/ -o store/ -k 128 --share 0.95
      srun adaptzip fleet basis adapters/ -o store/ --rank $SLURM_PROCID --world-size $SLURM_NTASKS
    """
    sink = Output(as_json, quiet, verbose)
    from adaptzip.fleet.jobs import build_fleet_basis

    with sink.warnings(), stops_told(), sink.progress() as report:
        found = build_fleet_basis(
            fleet, store, size=size, share=share, hold_out=hold_out, groups=groups, mean=mean, dtype=dtype,
            max_error=max_error, base=base, force=force,
            engine=_engine(engine, jobs, rank, world_size, address, wait, report),
        )  # fmt: skip
    _finish(found, lambda: show.bases(found.values), sink)


def bank(
    fleet: Members,
    store: Store,
    vectors: Annotated[int | None, size_option("Vectors in the bank, of which one is zero", "H")] = None,
    length: Annotated[int | None, size_option("Numbers in a vector", "L")] = None,
    top_k: Annotated[int | None, size_option("Vectors that are mixed to a piece", "K")] = None,
    factor_rank: Annotated[int | None, size_option("The most rows that a factor of a module may have", "R")] = None,
    memory: Annotated[
        float, typer.Option(help="GiB that PEFT may need for an exported adapter's logits.", metavar="GIB")
    ] = 1.0,
    hold_out: Annotated[
        float, typer.Option(help="Share of the adapters that is left out, to measure the bank on.", metavar="X")
    ] = 0.1,
    max_error: Annotated[
        float, typer.Option(help="The error at which adapters with the bank and without are compared.", metavar="X")
    ] = 0.5,
    seed: options.Seed = 0,
    base: options.NeededBase = None,
    engine: EngineName = "local",
    jobs: options.Jobs = 1,
    rank: Rank = None,
    world_size: WorldSize = None,
    address: Address = None,
    wait: Wait = 3600.0,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Fit a bank of vectors that a fleet's adapters share.

    Pieces of all adapters' factors are mixtures of a few of its vectors (VB-LoRA). It goes into the store by its
    hash, and `fleet compress` uses it where it pays. What it is worth is measured on members and on adapters left
    out, beside svd at the same bytes in total.

    \b
    Examples:
      adaptzip fleet bank adapters/ -o store/
      adaptzip fleet bank adapters/ -o store/ --vectors 512 --length 64 --jobs 8
    """
    sink = Output(as_json, quiet, verbose)
    from adaptzip.fleet.jobs import build_fleet_bank

    with sink.warnings(), stops_told(), sink.progress() as report:
        found = build_fleet_bank(
            fleet, store, rank=factor_rank, length=length, vectors=vectors, top_k=top_k, memory=memory,
            hold_out=hold_out, max_error=max_error, seed=seed, base=base, force=force,
            engine=_engine(engine, jobs, rank, world_size, address, wait, report),
        )  # fmt: skip
    _finish(found, lambda: show.banks(found.values), sink)


def compress(
    fleet: Members,
    store: Store,
    to: options.To = None,
    budget: options.Size = None,
    max_error: options.MaxError = None,
    share: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(help="Use the store's bases and banks where they pay, wherever they can be used, or not."),
    ] = "auto",
    extras: options.KeepExtras = "lossless",
    effort: Annotated[
        Literal["fast", "default", "best"], typer.Option(help="How long to look for smaller files.")
    ] = "fast",
    base: options.NeededBase = None,
    base_name: options.BaseName = None,
    engine: EngineName = "local",
    jobs: options.Jobs = 1,
    rank: Rank = None,
    world_size: WorldSize = None,
    address: Address = None,
    wait: Wait = 3600.0,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compress a fleet's adapters into a store.

    Each adapter is compressed alone and with the store's bases and banks, read back, and put into the store as
    NAME.adz, with a row in the index. A basis or bank is used where its adapters save more than it takes.
    Every worker may die and be started again; what comes of it is the same bit for bit.

    \b
    Examples:
      adaptzip fleet compress adapters/ -o store/ --max-error 0.2 --jobs 8
      adaptzip fleet compress adapters/ -o s3://bucket/store --budget 5% --engine ray --address ray://head:10001
    """
    sink = Output(as_json, quiet, verbose)
    from adaptzip.fleet.jobs import compress_fleet

    chosen: dict[str, Any] = {} if to is None else {"to": to}
    with sink.warnings(), stops_told(), sink.progress() as report:
        found = compress_fleet(
            fleet, store, budget=budget, max_error=max_error, share=share, extras=extras, effort=effort, base=base,
            base_name=base_name, force=force,
            engine=_engine(engine, jobs, rank, world_size, address, wait, report), **chosen,
        )  # fmt: skip
    _finish(found, lambda: show.compressed(found.values), sink)


def verify(
    store: Kept,
    fleet: Annotated[
        list[Path] | None,
        typer.Argument(
            help="The originals, as for `fleet compress`, to compare with.", metavar="SRC...", show_default=False
        ),
    ] = None,
    base: options.NeededBase = None,
    engine: EngineName = "local",
    jobs: options.Jobs = 1,
    address: Address = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Read every adapter of a store back from its file.

    Each has to be the file that the index says, come back with what it shares, and, where the original is named,
    with the error that it states. Exits with 1 if one does not. Writes only notes of its own, in STORE/work.

    \b
    Examples:
      adaptzip fleet verify store/
      adaptzip fleet verify store/ adapters/ --jobs 8
    """
    sink = Output(as_json, quiet, verbose)
    from adaptzip.fleet.checking import verify_fleet

    with sink.warnings(), stops_told(), sink.progress() as report_:
        workers = _engine(engine, jobs, None, None, address, 0.0, report_)
        found = verify_fleet(store, fleet or [], base=base, engine=workers)
    _finish(found, lambda: show.verified(found.adapters, found.values), sink)


def report(store: Kept, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show what a store holds, in sums.

    By method, base and group, with what the jobs that filled it measured. Writes nothing.

    \b
    Examples:
      adaptzip fleet report store/
      adaptzip fleet report s3://bucket/store --json
    """
    from adaptzip.fleet.checking import report_fleet

    found = report_fleet(store)
    Output(as_json, quiet).result(found, lambda: show.reported(found))


COMMANDS = (basis, bank, compress, verify, report)

app = typer.Typer(rich_markup_mode=None)
register(app, COMMANDS)


@app.callback(invoke_without_command=True)
def fleet(context: typer.Context) -> None:
    """Share, compress and check thousands of adapters."""
    if context.invoked_subcommand is None:
        _output.raw(context.get_help(), to_stderr=True)
        raise typer.Exit(2)


def _engine(
    name: str,
    jobs: int,
    rank: int | None,
    world_size: int | None,
    address: str | None,
    wait: float,
    report: Progress,
) -> Engine:
    from adaptzip.fleet.engines import fleet_engine

    return fleet_engine(name, jobs=jobs, rank=rank, world_size=world_size, address=address, wait=wait, progress=report)


def _finish(found: FleetResult, table: Any, sink: Output) -> None:
    """Show what came of it, then what failed, and end with the exit code of that.

    Raises:
        typer.Exit: with the largest exit code of the failures, if there are some.
    """
    failed: Mapping[str, Any] = found.failed
    values = {"store": found.store, "run": found.run, "adapters": found.adapters, **found.values}
    if sink.as_json or len(failed) < found.adapters:
        sink.result({**values, "failed": dict(failed)}, table)
    for name, told in failed.items():
        sink.failed(Path(name), told["message"], _hint(told["hint"]))
    if failed:
        sink.note(f"{len(failed):,} of {text.count(found.adapters, 'adapter')} failed")
        raise typer.Exit(max(told["exit_code"] for told in failed.values()))


def _hint(hint: str | None) -> str | None:
    """A hint about one adapter, and where the options are that it names and no command here has."""
    own = {parameter for command in COMMANDS for parameter in signature(command).parameters}
    if hint is None or own.issuperset(found["name"] for found in KEYWORD.finditer(hint)):
        return hint and in_flags(hint)
    return f"{in_flags(hint)}: `adaptzip store add` takes that"
