"""The program `adaptzip`: its commands, and what happens around them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from adaptzip._version import __version__
from adaptzip.cli import _failures, _output, bank, basis, fleet, store
from adaptzip.cli._registering import register
from adaptzip.cli._signals import Terminated, stoppable
from adaptzip.cli.bench import bench
from adaptzip.cli.check import check
from adaptzip.cli.combine import combine
from adaptzip.cli.compress import compress
from adaptzip.cli.convert import convert
from adaptzip.cli.diff import diff
from adaptzip.cli.distill import distill
from adaptzip.cli.eval import eval
from adaptzip.cli.export import export
from adaptzip.cli.extract import extract
from adaptzip.cli.inspect import inspect
from adaptzip.cli.merge import merge
from adaptzip.cli.methods import methods
from adaptzip.cli.plan import plan
from adaptzip.cli.publish import publish
from adaptzip.cli.report import report
from adaptzip.cli.verify import verify

COMMANDS = (
    compress, distill, plan, bench, inspect, verify, export, convert,
    merge, check, combine, extract, diff, eval, report, publish, methods,
)  # fmt: skip
GROUPS = {"basis": basis, "bank": bank, "fleet": fleet, "store": store}
"""Commands that have commands of their own, by name."""

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
register(app, COMMANDS)
for _name, _group in GROUPS.items():
    app.add_typer(_group.app, name=_name)


def _print_version(wanted: bool) -> None:
    if wanted:
        _output.raw(f"adaptzip {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def adaptzip(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """A zip for LoRA adapters: the smallest file that still does the adapter's job, and the way back.

    \b
    Examples:
      adaptzip compress my-adapter/ --budget 100x
      adaptzip inspect my-adapter.adz
      adaptzip export my-adapter.adz --as peft -o restored/
      adaptzip merge my-adapter.adz --base base-model/ -o merged/

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 a check said no, 2 bad usage or
    input, 3 refused, 70 internal error, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        _output.raw(context.get_help(), to_stderr=True)
        raise typer.Exit(2)


_COLLECTED = (100_000, 20, 50)
"""Objects, and collections of younger ones, that there are before garbage is collected."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line `words` (by default the process's own) and return the exit code."""
    if words is None:
        # Imports make a million objects that stay; to look through them for garbage again and again takes 0.3 s.
        gc.set_threshold(*_COLLECTED)
    arguments = list(sys.argv[1:] if words is None else words)
    _output.prepare_streams()
    try:
        with stoppable():
            return _run(arguments)
    finally:
        _output.close_streams()


def _sink(words: list[str]) -> _output.Output:
    """Where warnings go that a command does not show itself."""
    return _output.Output(quiet="-q" in words or "--quiet" in words, verbose="-v" in words or "--verbose" in words)


def _run(words: list[str]) -> int:
    try:
        with _sink(words).warnings():
            # Outside standalone mode Typer returns what the command does, and leaves errors to the caller.
            code = app(args=words, prog_name="adaptzip", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return _failures.report(KeyboardInterrupt(), words)
    except (Terminated, Exception) as error:
        return _failures.report(error, words)
    if code == _failures.INTERRUPTED:  # Typer has caught the KeyboardInterrupt already
        return _failures.report(KeyboardInterrupt(), words)
    return code or 0
