"""What can go wrong, as one line, a hint and an exit code."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adaptzip.cli import _output
from adaptzip.cli._signals import Terminated
from adaptzip.core.plug_ins import owner
from adaptzip.errors import AdaptzipError, BaseModelError, CheckpointError, FormatError, StoppedError

INTERNAL = 70
INTERRUPTED = 130
TERMINATED = 143

EXIT_CODES = {
    0: "done",
    1: "a check said no: `verify`, `diff --max-error`, a budget that cannot be reached, a merge into NaN",
    2: "bad usage or bad input: an unknown option, an unreadable or malformed file, an output that exists "
    "already or cannot be written, too little memory",
    3: "refused: valid input that adaptzip does not handle, such as an adapter that is not W + s*B@A",
    INTERNAL: "internal error: please report it, with the traceback that `ADAPTZIP_DEBUG=1` shows",
    INTERRUPTED: "interrupted with Ctrl-C; nothing is left behind, but for what `distill`, `merge` or "
    "`--search-starts` names, and notes of `fleet`, which goes on with them",
    TERMINATED: "terminated with SIGTERM; nothing is left behind, but for what `distill` or `merge` names, and notes "
    "of `fleet`",
}
"""What each exit code means."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_DEFAULT_HINTS = {
    FormatError: "the file is damaged or no .adz: download it again, or compress the adapter again",
    CheckpointError: "save the adapter again with PEFT's save_pretrained, or download it again",
    BaseModelError: "give the base model that the adapter was trained on",
}


@dataclass(frozen=True)
class Failure:
    """An error as the user sees it.

    Attributes:
        message: what went wrong, in one line.
        hint: what to do about it, or None.
        exit_code: the program's exit code.
        kind: the error's class, for programs that read --json.
    """

    message: str
    hint: str | None
    exit_code: int
    kind: str


def describe(error: BaseException) -> Failure:
    """What to tell the user about an error."""
    kind = type(error).__name__
    if isinstance(error, AdaptzipError):
        return Failure(str(error), error.hint or _default_hint(error), error.exit_code, kind)
    if _is_usage_error(error):
        return _usage_failure(error)
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted; nothing was left behind", None, INTERRUPTED, kind)
    if isinstance(error, Terminated):
        return Failure("terminated; nothing was left behind", None, TERMINATED, kind)
    if _is_memory_error(error):
        hint = "close other programs, or use a machine with more memory"
        hint += ", or try --device cpu" if _is_of_gpu(error) else ""
        return Failure("there is not enough memory", hint, 2, "MemoryError")
    if isinstance(error, OSError):
        return _system_failure(error)
    return _internal_failure(error)


@contextmanager
def stops_told() -> Iterator[None]:
    """Let a stop whose notes tell what was kept pass as an error that says so; Typer swallows a KeyboardInterrupt."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        kept = getattr(stop, "__notes__", ())
        if not kept:
            raise
        word, code = ("terminated", TERMINATED) if isinstance(stop, Terminated) else ("interrupted", INTERRUPTED)
        raise StoppedError("; ".join([word, *kept]), exit_code=code) from None


def report(error: BaseException, words: list[str]) -> int:
    """Print an error as the command line `words` asks for it; return the exit code."""
    if os.environ.get("ADAPTZIP_DEBUG") == "1":
        _output.raw("".join(traceback.format_exception(error)).rstrip(), to_stderr=True)
    failure = describe(error)
    _output.error(
        failure.message,
        failure.hint,
        failure.exit_code,
        kind=failure.kind,
        json_too="--json" in words,
    )
    return failure.exit_code


def _default_hint(error: AdaptzipError) -> str | None:
    """What can be done about an error whose raiser knows nothing better."""
    return next((hint for kind, hint in _DEFAULT_HINTS.items() if isinstance(error, kind)), None)


def _is_usage_error(error: BaseException) -> bool:
    """Whether the error is Typer's own; its classes moved between versions, their methods did not."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage_failure(error: BaseException) -> Failure:
    message: str = error.format_message().replace(": Value error, ", ": ")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "adaptzip"
    message = message.strip().rstrip(".")
    hint = _output_hint(error) or f"see {command} --help"
    return Failure(message[:1].lower() + message[1:], hint, 2, "UsageError")


def _output_hint(error: BaseException) -> str | None:
    """Where a command wants its output, for those who gave it by the option that other commands have for it."""
    context = getattr(error, "ctx", None)
    if context is None or getattr(error, "option_name", None) not in ("-o", "--output"):
        return None
    places = [p for p in context.command.params if p.name == "output" and p.param_type_name == "argument"]
    return f"write {context.command_path} SRC {places[0].metavar}" if places else None


def _is_memory_error(error: BaseException) -> bool:
    """torch raises its own class on the GPU and a plain RuntimeError on the CPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or _is_of_gpu(error)
        or (isinstance(error, RuntimeError) and ("not enough memory" in text or "can't allocate" in text))
    )


def _is_of_gpu(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"


def _internal_failure(error: BaseException) -> Failure:
    """What nobody foresaw, laid at the door of another package where the error came through its code."""
    kind = type(error).__name__
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    point = owner(frames)
    if point is None:
        hint = "set ADAPTZIP_DEBUG=1 to see where it happened, and please report it"
        return Failure(f"internal error: {kind}: {error}", hint, INTERNAL, kind)
    hint = "set ADAPTZIP_DEBUG=1 to see where it happened, and report it to its authors, or uninstall it"
    package = point.module if point.dist is None else point.dist.name
    what = f"the package {package}, which brings {point.name!r} as {point.value}, failed"
    return Failure(f"{what}: {kind}: {error}", hint, INTERNAL, kind)


def _system_failure(error: OSError) -> Failure:
    reason = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    hint = "check the path and its permissions" if where else None
    if error.errno in _FULL:
        hint = "free some space or choose another disk"
    return Failure(f"{where}{reason[:1].lower()}{reason[1:]}", hint, 2, type(error).__name__)
