"""`adaptzip inspect`: what is in a file, and what each method would make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from adaptzip.cli import _many as many
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output
from adaptzip.errors import UsageError

_LONGEST = 44
"""Characters of a base model's name in a table."""


def inspect(
    paths: options.Sources,
    costs: options.Costs = True,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    base: options.NeededBase = None,
    jobs: options.Jobs = 1,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what adapters hold.

    These are its modules, ranks, energy per rank, extras, dtypes and configuration, and what each method
    would roughly cost, with where its A began if that is recorded beside it or found. Of a .adz only the
    header is read: modules, sizes, error and origin. Of several sources there is one line for each, without
    costs. Writes nothing.

    \b
    Examples:
      adaptzip inspect my-adapter.adz
      adaptzip inspect my-adapter/ --verbose
      adaptzip inspect my-adapter/ --json
      adaptzip inspect *.adz
    """
    sink = Output(as_json, quiet, verbose)
    sources = many.expanded(paths)
    reading: dict[str, Any] = {"alpha": alpha, "config": config, "base": base, "dialect": dialect}
    if len(sources) > 1:
        work = partial(_worked, reading)
        with sink.warnings():
            many.finish(many.run(work, sources, sink, jobs=jobs), _table, sink)
        return
    (source,) = sources
    if _is_archive(source, dialect):
        from adaptzip.cli._show_archive import show as show_archive

        show_archive(source, sink)
    else:
        from adaptzip.cli._show_adapter import show as show_adapter

        show_adapter(source, sink, device=device if costs else None, **reading)


def _is_archive(source: Path, dialect: str | None) -> bool:
    """Whether a source is a .adz, which no dialect is for."""
    from adaptzip.adz.container.frame import is_adz

    found = is_adz(source)
    if found and dialect is not None:
        raise UsageError(f"--from {dialect} was given, but {source} is a .adz file", hint="leave --from out")
    return found


def _worked(reading: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Describe one of several adapters, perhaps in a process of its own."""
    if _is_archive(source, reading["dialect"]):
        from adaptzip.reports.archives import describe_archive

        return describe_archive(source).as_dict()
    from adaptzip.cli._show_adapter import described

    return described(source, **reading)


def _end(name: str) -> str:
    """A name, or the end of a long one."""
    return name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"


def _table(outcomes: Sequence[many.Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        told = outcome.values
        packed = told["kind"] == "adz"
        kind = told["method"] if packed else told["dialect"]
        modules = f"{len(told['modules']):,}"
        error = "" if not packed else "0" if told["lossless"] else text.number(told["relative_error"])
        base = _end(told["base_model"] or "")
        rows.append([str(outcome.source), kind, modules, text.size(told["bytes"]), error, base])
    return text.table(rows, head=["file", "kind", "modules", "size", "error", "base model"])
