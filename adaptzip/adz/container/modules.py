"""Modules and their shapes, names as patterns (formats/adz-1.md, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from adaptzip.adz.container.names import expand_each, factor, parameter_of
from adaptzip.core.compressed import Site
from adaptzip.core.limits import WHOLE, Room
from adaptzip.errors import FormatError

MAX_MODULES = 1_000_000
MAX_WIDTH = 2**31 - 1
LAYOUTS = ("linear", "transposed", "conv", "embedding", "expert", "expert_transposed")
_MOST_KERNEL = 8


def write_modules(sites: Mapping[str, Site]) -> list[list[Any]]:
    """`[pattern, out, in, layout, kernel]` for the modules of each shape."""
    return _entries(tuple((name, site.out, site.width, site.layout, site.kernel) for name, site in sites.items()))


@lru_cache(maxsize=4)
def _entries(sites: tuple[tuple[str, int, int, str, tuple[int, ...]], ...]) -> list[list[Any]]:
    names: dict[Site, list[str]] = {}
    for name, out, width, layout, kernel in sites:
        names.setdefault(Site(out, width, layout, kernel), []).append(name)
    return [_write_site(pattern, site) for site, group in names.items() for pattern in factor(group)]


def read_modules(items: Sequence[Any]) -> tuple[tuple[str, Site], ...]:
    """Patterns, each with what its modules are; no name is expanded.

    Raises:
        FormatError: if an entry is malformed.
    """
    return tuple(map(_read_site, items))


def expand_modules(patterns: Sequence[tuple[str, Site]], room: Room = WHOLE) -> dict[str, Site]:
    """Modules by name, sorted.

    Raises:
        FormatError: if there are too many, one comes twice, or an expert has no proper name.
        RefusedError: if there are more than there is room for.
    """
    sites: dict[str, Site] = {}
    expanded = expand_each([pattern for pattern, _ in patterns], MAX_MODULES, room)
    for (pattern, site), names in zip(patterns, expanded, strict=True):
        before = len(sites)
        sites |= dict.fromkeys(names, site)
        if len(sites) < before + len(names):
            raise FormatError(f"metadata: pattern {_shown(pattern)} repeats a module name")
    _check_experts(sites)
    return dict(sorted(sites.items()))


def _write_site(pattern: str, site: Site) -> list[Any]:
    item: list[Any] = [pattern, site.out, site.width]
    if site.layout != "linear":
        item.append(site.layout)
    if site.kernel:
        item.append(list(site.kernel))
    return item


def _read_site(item: Any) -> tuple[str, Site]:
    match item:
        case [str(pattern), out, width]:
            site = Site(out, width)
        case [str(pattern), out, width, str(layout)] if layout in LAYOUTS:
            site = Site(out, width, layout)
        case [str(pattern), out, width, "conv", [*kernel]]:
            site = Site(out, width, "conv", tuple(kernel))
        case _:
            raise FormatError(f"metadata: module entry {_shown(item)} is malformed")
    if not all(type(size) is int and 0 < size <= MAX_WIDTH for size in (site.out, site.width, *site.kernel)):
        raise FormatError(f"metadata: module entry {_shown(item)} has an impossible shape")
    if len(site.kernel) > _MOST_KERNEL or site.width % math.prod(site.kernel):
        raise FormatError(f"metadata: module entry {_shown(item)} has a kernel that does not divide its width")
    return pattern, site


def _check_experts(sites: Mapping[str, Site]) -> None:
    """Every expert is the only one of its parameter and number, and no module has its parameter's name."""
    for name, site in sites.items():
        if site.layout.startswith("expert"):
            parameter = parameter_of(name)
            if parameter is None:
                raise FormatError(
                    f"metadata: expert {_shown(name)} is not named PARAMETER[NUMBER], a number below 10^6 without "
                    "leading zeros"
                )
            if parameter in sites:
                raise FormatError(f"metadata: {_shown(parameter)} is a module, and has experts as well")


def _shown(item: Any) -> str:
    return repr(item)[:100]
