"""What the library says, in the words of the command line: it names keywords, as `base=DIR`, which are options here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from adaptzip.errors import AdaptzipError

KEYWORD = re.compile(r"`(?P<name>[a-z]\w*)=(?P<value>[^`]*)`")
_SETTING = re.compile(r"\{'(\w+)': (.*)\}")
_OTHERS = {"kind": "task", "limits": "allow_large", "micro": "micro_batch", "options": "setting"}
"""Keywords that commands call something else."""
_command: ContextVar[Any] = ContextVar("command", default=None)


@contextmanager
def in_words_of(context: Any) -> Iterator[None]:
    """Let what is said, and errors, name the options of a command, given by its Typer context."""
    token = _command.set(context)
    try:
        yield
    except AdaptzipError as error:
        error.args = tuple(in_flags(part) if isinstance(part, str) else part for part in error.args)
        error.hint = None if error.hint is None else in_flags(error.hint)
        raise
    finally:
        _command.reset(token)


def in_flags(text: str) -> str:
    """A text of the library, with the options of the command that is run; as it is where none is."""
    context = _command.get()
    if context is None or KEYWORD.search(text) is None:
        return text
    flags = flags_of(context.find_root().command, context.command)
    return KEYWORD.sub(lambda found: _option(found, flags), text)


def flags_of(program: Any, command: Any) -> Mapping[str, str]:
    """Options by keyword: a command's own, then those of others, with which what it says may be done as well."""
    params = [*_every(program), *command.params]
    flags = {param.name: max(param.opts, key=len) for param in params if param.param_type_name == "option"}
    return flags | {keyword: flags[name] for keyword, name in _OTHERS.items()}


def _every(command: Any) -> Iterator[Any]:
    yield from command.params
    for inner in getattr(command, "commands", {}).values():
        yield from _every(inner)


def _option(found: re.Match[str], flags: Mapping[str, str]) -> str:
    flag, value = flags.get(found["name"]), found["value"]
    if flag is None:
        return found[0]
    setting = _SETTING.fullmatch(value)
    if setting is not None:
        return f"{flag} {setting[1]}={_plain(setting[2])}"
    return flag if value in ("", "True") else f"{flag} {_plain(value)}"


def _plain(value: str) -> str:
    return value.lower() if value in ("True", "False") else value.removeprefix("'").removesuffix("'")
