"""What the library's functions take by name: their own parameters, and beside them the options of one method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adaptzip.core.calling import no_parameter
from adaptzip.errors import UsageError
from adaptzip.fitting.requests import option_names, said_options
from adaptzip.methods import load


def method_options(
    function: Callable[..., object],
    methods: Sequence[str],
    options: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The options of the one method that a function was asked for.

    Args:
        function: what was called.
        methods: names of the methods that it was asked for.
        options: options as a mapping, or None.
        settings: what it was given by name besides its parameters, which are options too.

    Raises:
        UsageError: if something is neither a parameter nor an option, with the nearest name as the hint, or is given
            twice, or several methods could have it.
    """
    called = function.__name__
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"{called}: options is {options!r}, expected a mapping from names to values")
    given = {**(options or {}), **settings}
    if not given:
        return {}
    twice = (options or {}).keys() & settings.keys()
    if twice:
        raise UsageError(f"{called}: {min(twice)!r} is given by name and in options", hint="give it once")
    parameters = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = {name: option_names(load(name)) for name in methods}
    known = {option for names in own.values() for option in names}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise _unknown(called, parameters, own, unknown[0])
    if len(own) > 1:
        raise UsageError(
            f"{called}: {min(given)!r} is an option of one method, and {len(own)} are compared",
            hint="name one method",
        )
    return given


def _unknown(called: str, parameters: Sequence[str], own: Mapping[str, Sequence[str]], name: str) -> UsageError:
    if len(own) != 1:
        return no_parameter(called, name, parameters)
    ((method, options),) = own.items()
    also = f", and method {method!r} has no option {name!r}"
    return no_parameter(called, name, [*parameters, *options], also, said_options(options))
