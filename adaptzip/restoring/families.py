"""The family that a file's method is, and its options as the file has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from adaptzip.core.compressed import Compressed
from adaptzip.core.family import AnyFamily, MethodConfig
from adaptzip.errors import FormatError, RefusedError, UsageError
from adaptzip.methods import load, names


def family_of(compressed: Compressed) -> AnyFamily:
    """The method that a file was made by.

    Raises:
        RefusedError: if it, its version or one of the file's options is unknown.
    """
    if compressed.method not in names():
        raise RefusedError(
            f"the file was made by method {compressed.method!r}, which is not installed",
            hint="install a newer adaptzip, or the package that brings the method",
        )
    method = load(compressed.method)
    if compressed.method_version > method.version:
        raise RefusedError(
            f"method {compressed.method!r} version {compressed.method_version} is newer than {method.version}",
            hint="install a newer adaptzip",
        )
    known = {"lossless", *(field.name for field in dataclasses.fields(method.config_type))}
    unknown = sorted(compressed.config.keys() - known)
    if unknown:
        message = f"method {compressed.method!r} has no option {unknown[0]!r}"
        raise RefusedError(message, hint="install a newer adaptzip")
    return method


def config_of(compressed: Compressed, family: AnyFamily) -> MethodConfig:
    """A file's options.

    Raises:
        FormatError: if they do not fit the method.
    """
    try:
        config: MethodConfig = family.config_type(**_options(family, compressed.config))
    except (TypeError, UsageError) as error:
        raise FormatError(f"metadata: 'config' does not fit method {family.name!r}: {error}") from error
    return config


def _options(method: AnyFamily, config: Mapping[str, Any]) -> dict[str, Any]:
    """A file's options, each of the type that the method declares; whole numbers stand for float ones too.

    Raises:
        TypeError: if one is of another type.
        UsageError: if a number is beyond all sense.
    """
    types = get_type_hints(method.config_type)
    return {key: _typed(key, value, types[key]) for key, value in config.items() if key in types}


def _typed(key: str, value: Any, declared: Any) -> Any:
    kinds = _kinds(declared)
    if type(value) is int and abs(value) >= 2**63:
        raise UsageError(f"{key} is beyond 2^63")
    if type(value) is int and int not in kinds and float in kinds:
        return float(value)
    if type(value) not in kinds:
        raise TypeError(f"{key} is of the wrong type")
    return value


def _kinds(declared: Any) -> set[type]:
    """The types that a declared one allows: a union's, and those of a literal's values."""
    inner = get_args(declared)
    if get_origin(declared) is Literal:
        return set(map(type, inner))
    return set().union(*map(_kinds, inner)) if inner else {declared}
