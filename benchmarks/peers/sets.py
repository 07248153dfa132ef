"""Peers that take several adapters at once, beside a file of ours for each at the error that it is left with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

from adaptzip.core.adapter import Adapter
from benchmarks.peers import ours
from benchmarks.peers.coders import factors, rebuilt
from benchmarks.peers.drivers.exchange import Arrays
from benchmarks.peers.environments import Environments
from benchmarks.peers.packages import LORASHARE, VLORA, Package
from benchmarks.peers.rates import Point
from benchmarks.real_adapters import RealAdapter
from benchmarks.storage import error_of

Among = Sequence[RealAdapter]
AND = " + "
"""Between the names of a set."""
COMPONENTS = (2, 4, 8, 12, 16, 24)
"""Of lorashare, whose samples are the rows of A and the columns of B of all adapters."""
LARGEST = 0.99
"""An error that our files are held to where a peer leaves still less of an adapter."""


@dataclass(frozen=True)
class SetPoint(Point):
    """A set of adapters: all bytes, the error over all, and the bytes of our files."""

    ours: int = 0


def found(reals: Among) -> list[list[RealAdapter]]:
    """Adapters that have the same modules at the same ranks, two of them at least."""
    kinds: dict[object, list[RealAdapter]] = {}
    for real in reals:
        kinds.setdefault(_kind(real.adapter), []).append(real)
    return [among for among in kinds.values() if len(among) > 1]


def _kind(adapter: Adapter) -> object:
    return tuple((name, module.shape, module.rank) for name, module in adapter.modules.items())


def name(among: Among) -> str:
    return AND.join(real.name for real in among)


def contenders(environments: Environments) -> dict[str, Callable[[Among], list[SetPoint]]]:
    return {"vlora-dev": partial(_vlora, environments), "lorashare": partial(_lorashare, environments)}


def _vlora(environments: Environments, among: Among) -> list[SetPoint]:
    """One component and more, up to those that keep everything: one less than there are adapters."""
    settings = [(count, nf4) for count in range(1, len(among)) for nf4 in (False, True)]
    names = [f"components: {count}, {'NF4' if nf4 else 'float32'}" for count, nf4 in settings]
    return _asked(environments, VLORA, among, [(*setting, []) for setting in settings], names)


def _lorashare(environments: Environments, among: Among) -> list[SetPoint]:
    rank = next(iter(among[0].adapter.modules.values())).rank
    counts = [count for count in COMPONENTS if count <= rank * len(among)]
    settings: list[tuple[int, list[str]]] = [(count, []) for count in counts]
    return _asked(environments, LORASHARE, among, settings, [f"components: {count}" for count in counts])


def _asked(
    environments: Environments, package: Package, among: Among, settings: Sequence[Any], names: Sequence[str]
) -> list[SetPoint]:
    arrays = {f"{real.name}|{key}": array for real in among for key, array in factors(real.adapter).items()}
    answers = environments.ask(package, arrays, settings)
    return [_point(among, n, answer.bytes, answer.arrays) for n, answer in zip(names, answers, strict=True)]


def _point(among: Among, setting: str, size: int, arrays: Arrays) -> SetPoint:
    errors = [error_of(real.adapter, rebuilt(real.adapter, _of(real.name, arrays)).modules) for real in among]
    energies = [float(real.parts.energy.sum()) for real in among]
    whole = sqrt(sum(e * e * energy for e, energy in zip(errors, energies, strict=True)) / sum(energies))
    files = [ours.file_at(real, min(error, LARGEST)) for real, error in zip(among, errors, strict=True)]
    return SetPoint(setting, size, whole, ours=sum(int(file.bytes) for file in files))


def _of(adapter: str, arrays: Arrays) -> Arrays:
    return {key.removeprefix(f"{adapter}|"): array for key, array in arrays.items() if key.startswith(f"{adapter}|")}
