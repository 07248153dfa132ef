"""Peers that take many adapters at once, each in its own environment.

Both hold adapters of one rank alone, so that they get those of the commonest rank; what is left out of their
components is projected on them later. They are given factors whose scale is in B.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.fitting.requests import Original
from benchmarks.fleet.made import Among, Made
from benchmarks.peers.coders import factors, rebuilt
from benchmarks.peers.environments import Environments
from benchmarks.peers.packages import LORASHARE, VLORA, Package

VLORA_SETTINGS = ((4, True), (16, True), (64, False))
"""Components, and whether they are stored as NF4."""
LORASHARE_SETTINGS = (4, 16)
"""Components."""


def vlora(environments: Environments, among: Among, setting: tuple[int, bool], _: Path) -> Made:
    """Components of A and of B as they are, one for each adapter at most."""
    components, nf4 = setting
    members, later = _held(among)
    return _asked(environments, VLORA, members, later, [min(components, len(members) - 1), nf4])


def told_of_vlora(setting: tuple[int, bool]) -> str:
    components, nf4 = setting
    return f"{components} components, {'NF4' if nf4 else 'float32'}"


def lorashare(environments: Environments, among: Among, components: int, _: Path) -> Made:
    """Components of the rows of A and of the columns of B."""
    return _asked(environments, LORASHARE, *_held(among), [components])


def told_of_lorashare(components: int) -> str:
    return f"{components} components"


Adapters = dict[str, Adapter]


def _held(among: Among) -> tuple[Adapters, Adapters]:
    """Members and others of the commonest rank."""
    ranks = Counter(_rank(one) for one in among.members.values())
    rank = ranks.most_common(1)[0][0]
    members, later = (
        {name: one.adapter for name, one in side.items() if _rank(one) == rank}
        for side in (among.members, among.left_out)
    )
    return members, later


def _rank(source: Original) -> int:
    return max(module.rank for module in source.adapter.modules.values())


def _asked(
    environments: Environments, package: Package, members: Adapters, later: Adapters, setting: list[Any]
) -> Made:
    adapters = {_plain(name): one for name, one in (members | later).items()}
    arrays = {f"{name}|{key}": array for name, one in adapters.items() for key, array in factors(one).items()}
    (answer,) = environments.ask(package, arrays, [[*setting, [_plain(name) for name in later]]])
    given: dict[str, dict[str, Any]] = {}
    for key, array in answer.arrays.items():
        name, _, rest = key.partition("|")
        given.setdefault(name, {})[rest] = array
    return Made({name: rebuilt(one, given[_plain(name)]) for name, one in (members | later).items()}, answer.bytes)


def _plain(name: str) -> str:
    """A name that can be a folder's."""
    return name.replace("/", "-")
