"""What the library's functions take by name: their own parameters, and beside them the options of one method."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adaptzip.errors import UsageError
from adaptzip.fitting.requests import option_names, said_options
from adaptzip.methods import load


def check_options(function: Callable[..., object], methods: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse what is neither a parameter of a function nor an option of the one method that it was asked for.

    Args:
        function: what was called.
        methods: names of the methods that it was asked for.
        options: what it was given by name besides its parameters.

    Raises:
        UsageError: if something is unknown, with the nearest name as the hint, or several methods could have it.
    """
    if not options:
        return
    called = function.__name__
    parameters = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = {name: option_names(load(name)) for name in methods}
    known = {option for names in own.values() for option in names}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise _unknown(called, parameters, own, unknown[0])
    if len(own) > 1:
        raise UsageError(
            f"{called}: {min(options)!r} is an option of one method, and {len(own)} are compared",
            hint="name one method",
        )


def _unknown(called: str, parameters: Sequence[str], own: Mapping[str, Sequence[str]], name: str) -> UsageError:
    told = f"{called} has no parameter {name!r}"
    candidates = list(parameters)
    hint = f"its parameters: {', '.join(parameters)}"
    if len(own) == 1:
        ((method, options),) = own.items()
        told += f", and method {method!r} has no option {name!r}"
        candidates += options
        hint = said_options(options)
    near = difflib.get_close_matches(name, candidates, 1)
    return UsageError(told, hint=f"did you mean {near[0]!r}?" if near else hint)
