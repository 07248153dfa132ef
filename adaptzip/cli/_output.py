"""The only place that prints: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from adaptzip.cli._drawing import colours, show
from adaptzip.cli._flags import in_flags
from adaptzip.cli._text import one_line, printable, within_a_screen
from adaptzip.cli._whole import WholeJob
from adaptzip.core.progress import Progress
from adaptzip.errors import AdaptzipWarning

SCHEMA = 1
"""Version of the JSON that every command prints; a key is never renamed or removed within one version."""

_STYLES = {"error": "\x1b[1;31m", "warning": "\x1b[33m", "hint": "\x1b[2m"}


@dataclass(frozen=True)
class Output:
    """Where a command's results go.

    Attributes:
        as_json: print the result as one JSON object instead of text.
        quiet: print no result as text, no progress and no summary.
        verbose: say more on stderr.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def result(self, values: Mapping[str, Any], text: Callable[[], str]) -> None:
        """Print a result on stdout: `values` with --json, else what `text` makes, unless quiet."""
        if self.as_json:
            _write(sys.stdout, as_json({"schema": SCHEMA, **values}))
        elif not self.quiet:
            _show(sys.stdout, text)

    def wrote(self, path: str | Path, summary: str, values: Mapping[str, Any]) -> None:
        """Report an output that was written: as JSON on stdout if asked for, and in one line on stderr."""
        if self.as_json:
            _write(sys.stdout, as_json({"schema": SCHEMA, **values}))
        if not self.quiet:
            _write(sys.stderr, one_line(f"wrote {path}  {summary}"))

    def warning(self, message: str) -> None:
        """Say on stderr what the user should know although it is no error."""
        if not self.quiet:
            _say("warning", message)

    def failed(self, what: Path, message: str, hint: str | None) -> None:
        """Say on stderr that one of several failed, which stops none of the others."""
        told = message if message.startswith(str(what)) else f"{what}: {message}"
        _say("error", told)
        if hint:
            _say("hint", hint)

    def note(self, text: str | Callable[[], str]) -> None:
        """Say on stderr what belongs to a result, in one line or several; with --json it is in the result.

        Args:
            text: it, or what makes it, where there are tables in it.
        """
        if not self.quiet and not self.as_json:
            _show(sys.stderr, text if callable(text) else lambda: text)

    def detail(self, message: str) -> None:
        """Say on stderr what only --verbose asks for."""
        if self.verbose and not self.quiet:
            _write(sys.stderr, one_line(message))

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Show this package's warnings as `warning` does, other packages' with --verbose, and what is logged."""

        def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
            (self.warning if issubclass(category, AdaptzipWarning) else self.detail)(str(message))

        with warnings.catch_warnings(), _logged(self._log):
            warnings.simplefilter("default")
            warnings.showwarning = show
            yield

    def _log(self, message: str) -> None:
        """Say on a terminal what takes longer than usual, elsewhere with --verbose."""
        if sys.stderr.isatty() and not self.as_json:
            self.note(one_line(message))
        else:
            self.detail(message)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show a bar on a terminal; elsewhere a line for each phase and what is logged with --verbose, else nothing."""
        if self.quiet or self.as_json or not sys.stderr.isatty():
            with _logged(self.detail):
                yield self._phases()
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)

        def show(text: str) -> None:
            console.print(text, markup=False, highlight=False)

        try:
            with Progress(*columns, console=console, transient=True) as bar, _logged(show):
                task, whole = bar.add_task("starting", total=1.0), WholeJob()

                def report(phase: str, done: float, total: float) -> None:
                    bar.update(task, description=phase, completed=whole.told(phase, done, total))

                yield report
        finally:
            # A Ctrl-C while the bar is begun leaves it hidden.
            console.show_cursor(True)

    def _phases(self) -> Progress:
        said: set[str] = set()

        def report(phase: str, done: float, total: float) -> None:
            if phase not in said:
                said.add(phase)
                self.detail(phase)

        return report


@contextmanager
def _logged(show: Callable[[str], None]) -> Iterator[None]:
    """Show what the package logs: why something takes longer than usual. Only the innermost of several does."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(one_line(record.getMessage()))

    logger, handler = logging.getLogger("adaptzip"), Handler()
    level, outer = logger.level, logger.handlers
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    try:
        yield
    finally:
        logger.handlers = outer
        logger.setLevel(level)


def error(message: str, hint: str | None, exit_code: int, *, kind: str, json_too: bool) -> None:
    """Print an error on stderr; with --json its last line is the error as a JSON object."""
    _say("error", message)
    if hint:
        _say("hint", hint)
    if json_too:
        values = {"kind": kind, "message": message, "hint": hint, "exit_code": exit_code}
        _write(sys.stderr, as_json({"schema": SCHEMA, "error": values}, indent=None))


def raw(text: str, *, to_stderr: bool = False) -> None:
    """Print text of the program's own as it is, such as its help or a traceback."""
    _write(sys.stderr if to_stderr else sys.stdout, text)


def as_json(values: Mapping[str, Any], indent: int | None = 2) -> str:
    """JSON in plain ASCII; NaN and infinity, which JSON has no words for, become null."""
    return json.dumps(_plain(values), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def prepare_streams() -> None:
    """Let stdout and stderr show names that their encoding lacks, as backslash escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def close_streams() -> None:
    """Flush what is left; a reader that has gone away, as `| head` does, is no error."""
    for stream in (sys.stdout, sys.stderr):
        _guarded(stream, stream.flush)


def _say(kind: str, message: str) -> None:
    """One line on stderr, after what kind it is of."""
    shown = f"{_STYLES[kind]}{kind}:\x1b[0m" if colours(sys.stderr) else f"{kind}:"
    _write(sys.stderr, f"{shown} {within_a_screen(one_line(message))}")


def _show(stream: TextIO, text: Callable[[], str]) -> None:
    """Show a text, with its tables drawn on a terminal."""
    if colours(stream):
        _guarded(stream, lambda: show(stream, text, lambda told: printable(in_flags(told))))
    else:
        _write(stream, printable(text()))


def _write(stream: TextIO, text: str) -> None:
    _guarded(stream, lambda: print(in_flags(text), file=stream, flush=True))


def _guarded(stream: TextIO, act: Callable[[], None]) -> None:
    """Act on a stream; when its reader has gone away, everything further is dropped silently."""
    try:
        act()
    except BrokenPipeError:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), stream.fileno())
