"""The registry of methods: every module in this folder, and every entry point of the group `adaptzip.methods`.

A method module holds one object `METHOD`. Listing names imports neither the methods nor torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.core.function_method import AnyFunctionMethod
    from adaptzip.core.method import AnyMethod

    Loaded: TypeAlias = AnyMethod | AnyFunctionMethod

GROUP = "adaptzip.methods"
REFERENCE = "svd"
"""The method that every other is held against, and the default."""


def names() -> tuple[str, ...]:
    """Names of all methods, sorted, as `--to` takes them."""
    return tuple(sorted({*_built_in(), *_plugged_in()}))


def fittable() -> tuple[str, ...]:
    """Names of the methods that an adapter can be turned into without training, sorted; this imports them."""
    from adaptzip.core.method import Method

    return tuple(name for name in names() if isinstance(load(name), Method))


def load_fittable(name: str) -> AnyMethod:
    """The method called `name`, which updates can be fitted to.

    Raises:
        UsageError: as `load`.
        RefusedError: if it can only be trained.
    """
    from adaptzip.core.function_method import FunctionMethod

    method = load(name)
    if isinstance(method, FunctionMethod):
        raise method.refusal()
    return method


def load(name: str) -> Loaded:
    """The method called `name`.

    Raises:
        UsageError: if there is none, or if two packages bring one of that name.
    """
    built_in, plugged_in = _built_in(), _plugged_in()
    if name in built_in and name in plugged_in:
        raise UsageError(
            f"method {name!r} is defined twice: by adaptzip and by {plugged_in[name].value}",
            hint="uninstall the package that brings the second one",
        )
    if name in built_in:
        return cast("Loaded", import_module(f"{__name__}.{built_in[name]}").METHOD)
    if name in plugged_in:
        return cast("Loaded", plugged_in[name].load())
    raise UsageError(f"method {name!r} is unknown", hint=f"methods: {', '.join(names())}")


def _built_in() -> dict[str, str]:
    """Module names in this folder by method name; an underscore is written as a hyphen."""
    files = Path(__file__).parent.glob("[!_]*.py")
    return {path.stem.replace("_", "-"): path.stem for path in files}


def _plugged_in() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
