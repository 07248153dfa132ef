"""The registry of methods: every module in this folder, and every entry point of the group `adaptzip.methods`.

A method module holds one object `METHOD`. Listing names imports neither the methods nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias, cast

from adaptzip.core.calling import nearest
from adaptzip.core.plug_ins import METHODS, broken, plug_ins, points_of
from adaptzip.core.plug_ins import load as load_plug_in
from adaptzip.errors import UsageError
from adaptzip.methods._options import MethodOptions

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from adaptzip.core.function_method import AnyFunctionMethod
    from adaptzip.core.method import AnyMethod

    Loaded: TypeAlias = AnyMethod | AnyFunctionMethod

__all__ = ["GROUP", "REFERENCE", "MethodOptions", "check_known", "fittable", "load", "load_fittable", "names"]

GROUP = METHODS
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
        UsageError: if there is none, or if two packages bring methods of one name; if a package's method cannot be
            loaded, is none, has another name than its entry point, or says what no method says of itself.
    """
    built_in = _built_in()
    plugged_in = plug_ins(GROUP, "method", built_in)
    if name in built_in:
        return cast("Loaded", import_module(f"{__name__}.{built_in[name]}").METHOD)
    if name in plugged_in:
        return _checked(plugged_in[name])
    raise _unknown(name)


def check_known(name: str) -> None:
    """Refuse a name that no method has; this imports none.

    Raises:
        UsageError: then.
    """
    if name not in names():
        raise _unknown(name)


def _unknown(name: str) -> UsageError:
    return UsageError(f"method {name!r} is unknown", hint=nearest(name, names(), f"methods: {', '.join(names())}"))


@cache
def _built_in() -> Mapping[str, str]:
    """Module names in this folder by method name; an underscore is written as a hyphen."""
    files = Path(__file__).parent.glob("[!_]*.py")
    return MappingProxyType({path.stem.replace("_", "-"): path.stem for path in files})


def _plugged_in() -> tuple[str, ...]:
    return tuple(point.name for point in points_of(GROUP))


def _checked(point: EntryPoint) -> Loaded:
    """The method of another package."""
    from adaptzip.core.family import fault
    from adaptzip.core.function_method import FunctionMethod
    from adaptzip.core.method import Method

    loaded = cast("Loaded", load_plug_in(point, "method", (Method, FunctionMethod)))
    wrong = fault(loaded)
    if wrong is not None:
        raise broken(point, "method", wrong)
    return loaded
