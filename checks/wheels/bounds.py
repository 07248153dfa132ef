"""The versions that pyproject.toml allows: `python -m checks.wheels.bounds [EXTRA ...]` prints the lowest, a line each.

Every requirement has one lower bound, `>=`, or one version, `==`: so there is a lowest set, and no tool has to search
for it. Of what these require in turn an installer takes the newest.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent


def main() -> int:
    """Print the lowest versions of the package's own requirements and of the named extras'."""
    print(*map(str, lowest(requirements(sys.argv[1:]))), sep="\n")
    return 0


def requirements(extras: Sequence[str] = ()) -> list[Requirement]:
    """What pyproject.toml requires, with what the extras do.

    Raises:
        KeyError: for an extra that there is not.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def lowest(wanted: Iterable[Requirement]) -> list[Requirement]:
    """Each distribution once, at the lowest version that all of its requirements allow.

    Raises:
        ValueError: for a requirement whose lowest version cannot be told from its text.
    """
    highest: dict[str, Requirement] = {}
    for requirement in wanted:
        pinned, name = _at_its_bound(requirement), canonicalize_name(requirement.name)
        if name not in highest or _version(pinned) > _version(highest[name]):
            highest[name] = pinned
    return list(highest.values())


def pins(constraints: str) -> dict[str, Version]:
    """The versions in the text of a file of constraints, by the names of their distributions."""
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(each.name): _version(each) for each in map(Requirement, lines)}


def _at_its_bound(requirement: Requirement) -> Requirement:
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator not in (">=", "=="):
        raise ValueError(f"{requirement}: expected one bound, >= or ==, to tell the lowest version from")
    pinned = Requirement(str(requirement))
    pinned.specifier = SpecifierSet(f"=={specifiers[0].version}")
    return pinned


def _version(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    return Version(specifier.version)


if __name__ == "__main__":
    sys.exit(main())
