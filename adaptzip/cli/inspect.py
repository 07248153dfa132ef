"""`adaptzip inspect`: what is in a file, and what each method would make of it."""

from __future__ import annotations

from adaptzip.cli import _options as options
from adaptzip.cli._output import Output
from adaptzip.errors import UsageError


def inspect(
    source: options.Source,
    costs: options.Costs = True,
    alpha: options.Alpha = None,
    config: options.Config = None,
    dialect: options.From = None,
    base: options.NeededBase = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what an adapter holds.

    These are its modules, ranks, energy per rank, extras, dtypes and configuration, and what each method
    would roughly cost, with where its A began if that is recorded beside it or found. Of a .adz only the
    header is read: modules, sizes, error and origin. Writes nothing.

    \b
    Examples:
      adaptzip inspect my-adapter.adz
      adaptzip inspect my-adapter/ --verbose
      adaptzip inspect my-adapter/ --json
    """
    sink = Output(as_json, quiet, verbose)
    from adaptzip.adz.container.frame import is_adz

    if is_adz(source):
        if dialect is not None:
            raise UsageError(f"--from {dialect} was given, but {source} is a .adz file", hint="leave --from out")
        from adaptzip.cli._show_archive import show as show_archive

        show_archive(source, sink)
    else:
        from adaptzip.cli._show_adapter import show as show_adapter

        chosen = device if costs else None
        show_adapter(source, sink, alpha=alpha, config=config, base=base, dialect=dialect, device=chosen)
