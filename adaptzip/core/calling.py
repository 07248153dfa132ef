"""What holds for every public function when it is called."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import CO_VARKEYWORDS
from typing import ParamSpec, TypeVar, cast

from adaptzip.core.limits import Limits, limited
from adaptzip.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse a keyword that a function does not have with a UsageError that tells the nearest one.

    Where a function has a parameter `limits`, those hold while it runs.
    """
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    takes_others = bool(code.co_flags & CO_VARKEYWORDS)
    takes_limits = "limits" in names

    @wraps(function)
    def called(*arguments: P.args, **keywords: P.kwargs) -> R:
        for name in keywords:
            if name not in names and not takes_others:
                raise no_parameter(function.__name__, name, names)
        if takes_limits:
            with limited(cast("Limits | None", keywords.get("limits"))):
                return function(*arguments, **keywords)
        return function(*arguments, **keywords)

    return called


def no_parameter(function: str, name: str, names: Sequence[str], also: str = "", hint: str = "") -> UsageError:
    """The error about a keyword that a function does not have.

    Args:
        names: what it could have been.
        also: what else it is not.
        hint: what to say where no name is near.
    """
    return UsageError(
        f"{function} has no parameter {name!r}{also}",
        hint=nearest(name, names, hint or f"its parameters: {', '.join(names)}"),
    )


def nearest(name: str, names: Iterable[str], otherwise: str) -> str:
    """A hint that names the nearest of some names, or says what else there is to say where none is near."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f"did you mean {near[0]!r}?" if near else otherwise
