"""`--allow-large`, which every command has that reads adapters: one option, and what it lifts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from adaptzip.cli._bases import ADAPTERS
from adaptzip.cli._options import AllowLarge
from adaptzip.core.limits import VARIABLE

_NAME = "allow_large"
_READ = (*ADAPTERS, "files", "file", "store", "location", "name", "names")
"""What commands call what they read."""


def allowing_large(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the option, if it reads adapters."""
    signature = inspect.signature(command, eval_str=True)
    if not set(signature.parameters) & set(_READ):
        return command

    @wraps(command)
    def run(**values: Any) -> Any:
        with _lifted(bool(values.pop(_NAME, False))):
            return command(**values)

    option = inspect.Parameter(_NAME, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AllowLarge)
    parameters = [*signature.parameters.values(), option]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {own.name: own.annotation for own in parameters}
    return run


@contextmanager
def _lifted(wanted: bool) -> Iterator[None]:
    """No limits, for this process and those that it starts."""
    if not wanted:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
