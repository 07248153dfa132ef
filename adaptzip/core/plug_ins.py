"""What other packages bring by entry points, and what is said of it where it is broken."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

METHODS = "adaptzip.methods"
DIALECTS = "adaptzip.dialects"
"""The groups of entry points that other packages bring methods and dialects by."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def points_of(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group. To read what every installed package says takes long, and is done once for each
    state of the folders that Python looks into.
    """
    return _points(group, tuple((folder, _changed(folder)) for folder in sys.path))


@lru_cache(maxsize=8)
def _points(group: str, _: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    # It takes longer to import than the help of the command line, which has no need of it.
    from importlib.metadata import entry_points

    return tuple(entry_points(group=group))


def _changed(folder: str) -> int:
    """When something was last put into a folder; 0 where there is none."""
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


def plug_ins(group: str, kind: str, own: Collection[str]) -> dict[str, EntryPoint]:
    """The entry points of a group by name.

    Args:
        kind: what one of them is called in messages.
        own: the names that this package has taken.

    Raises:
        UsageError: if two packages bring one of the same name, or one has a name of `own`.
    """
    points = points_of(group)
    places = dict.fromkeys(own, "adaptzip")
    for point in points:
        if places.setdefault(point.name, point.value) != point.value:
            raise UsageError(
                f"{kind} {point.name!r} is defined twice: by {places[point.name]} and by {point.value}",
                hint="uninstall the package that brings the second one",
            )
    return {point.name: point for point in points}


def load(point: EntryPoint, kind: str, kinds: tuple[type, ...]) -> object:
    """The object that an entry point names, which has to bear the entry point's name.

    Args:
        kind: what it is called in messages.
        kinds: the classes that it may be of.

    Raises:
        UsageError: if it cannot be imported, is of another class, or has another name or none.
    """
    try:
        loaded = point.load()
    except Exception as error:  # Whatever a stranger's module does when it is imported.
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise broken(point, kind, f"cannot be loaded: {said}") from error
    if not isinstance(loaded, kinds):
        wanted = " or ".join(each.__name__ for each in kinds)
        if isinstance(loaded, type) and issubclass(loaded, kinds):
            raise broken(point, kind, f"is the class {loaded.__name__}, expected an object of it")
        raise broken(point, kind, f"is of type {type(loaded).__name__}, expected a {wanted}")
    name = getattr(loaded, "name", None)
    if name != point.name:
        raise broken(point, kind, f"calls itself {name!r}, expected the entry point's name")
    if not _NAME.fullmatch(point.name):
        raise broken(point, kind, "has a name that is not of lower case letters, digits and hyphens")
    return loaded


def broken(point: EntryPoint, kind: str, what: str) -> UsageError:
    """The error about what an entry point names."""
    package = "a package" if point.dist is None else f"the package {point.dist.name}"
    return UsageError(
        f"{kind} {point.name!r}, which {package} brings as {point.value}, {what}",
        hint="mend that package, or uninstall it",
    )


def owner(modules: Iterable[str]) -> EntryPoint | None:
    """The first entry point of a method or a dialect whose package has one of the modules, or None."""
    tops = {module.partition(".")[0] for module in modules} - {__name__.partition(".")[0]}
    points = (point for group in (METHODS, DIALECTS) for point in points_of(group))
    return next((point for point in points if point.module.partition(".")[0] in tops), None)
