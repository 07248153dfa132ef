"""What is measured, a line for each, and what of it is still to be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from adaptzip.core.adapter import Adapter
from benchmarks import results
from benchmarks.peers import ours, sets
from benchmarks.peers.contenders import contenders
from benchmarks.peers.environments import Environments, PeerAbsentError, PeerFailedError
from benchmarks.peers.rates import Point
from benchmarks.real_adapters import RealAdapter

SIZE = "float16"
"""The contender whose bytes others are counted in."""


@dataclass(frozen=True)
class Row:
    """An adapter or a set of adapters, by a contender or by adaptzip.

    Attributes:
        of: the adapter, or the set.
        ours: for a set, the bytes of our files, each adapter's at the error that the contender leaves it.
    """

    of: str
    peer: str
    setting: str
    bytes: float
    error: float
    ours: int | None = None

    @property
    def point(self) -> Point:
        return Point(self.setting, self.bytes, self.error)


class Run:
    """Rows, of which those in a results file are not measured again; remembers what could not be measured, and why.

    Args:
        only: the contenders that are measured; all where empty.
    """

    def __init__(self, environments: Environments, path: Path | None = None, only: Sequence[str] = ()) -> None:
        self.environments = environments
        self.path = path
        self.only = only
        self.rows = results.read(path, Row)
        self.absent: dict[str, str] = {}

    def measure(self, reals: Sequence[RealAdapter]) -> None:
        """Every contender on every adapter, our files at the same errors, and the sets."""
        for contender in contenders(self.environments):
            for real in reals:
                self._grow(real.name, contender.name, partial(contender.measure, _bare(real.adapter)))
        for real in reals:
            self._measure_ours(real)
        for among in sets.found(reals):
            for name, measure in sets.contenders(self.environments).items():
                self._grow(sets.name(among), name, partial(measure, among))

    def of(self, name: str, peer: str) -> list[Point]:
        return [row.point for row in self.rows if (row.of, row.peer) == (name, peer)]

    def _measure_ours(self, real: RealAdapter) -> None:
        """At the errors of the curve, and at those of contenders that have one error alone."""
        single = {one.name for one in contenders(self.environments) if not one.curve}
        own = [row.error for row in self.rows if row.of == real.name and row.peer in single and row.error < 1]
        done = {point.setting for point in self.of(real.name, ours.NAME)}
        for error in dict.fromkeys([*ours.ERRORS, *own]):
            if ours.setting(error) not in done:
                done.add(ours.setting(error))
                self._add(real.name, ours.NAME, [ours.file_at(real, error)])

    def _grow(self, of: str, peer: str, measure: Callable[[], Iterable[Point]]) -> None:
        if self.of(of, peer) or peer in self.absent or self.only and peer not in (SIZE, *self.only):
            return
        try:
            self._add(of, peer, measure())
        except PeerAbsentError as error:
            self.absent[peer] = str(error)
        except PeerFailedError as error:
            self.absent[f"{peer} of {of}"] = str(error)

    def _add(self, of: str, peer: str, points: Iterable[Point]) -> None:
        for point in points:
            mine = point.ours if isinstance(point, sets.SetPoint) else None
            self.rows.append(Row(of, peer, point.setting, point.bytes, point.error, mine))
            results.add(self.path, self.rows[-1])

    def missing(self) -> list[str]:
        """Contenders without a row."""
        known = {row.peer for row in self.rows}
        return [name for name in names() if name not in known]


def names() -> list[str]:
    """Of all contenders, those for sets last."""
    environments = Environments()
    return [*(one.name for one in contenders(environments)), *sets.contenders(environments)]


def _bare(adapter: Adapter) -> Adapter:
    """Without magnitudes and biases, which few peers know."""
    modules = {name: replace(module, magnitude=None, bias=None) for name, module in adapter.modules.items()}
    return replace(adapter, modules=modules)
