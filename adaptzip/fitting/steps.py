"""The search for the step of one fitted adapter: each is tried by coding it, or a sample of it where it is large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import log, sqrt

import numpy as np

from adaptzip.adz.coding.trellis import MAX_LEVEL
from adaptzip.core.effort import Effort
from adaptzip.core.progress import Progress
from adaptzip.fitting.fits import CodedAdapter, FittedAdapter
from adaptzip.fitting.rate import Point, search, solve
from adaptzip.fitting.small_rooms import INDEX_BYTES, cheapest, expected, expected_at
from adaptzip.fitting.tolerances import TOLERANCES, Tolerances

FINEST_ERROR = 1e-4
"""A size budget is not filled beyond this relative error."""
GRAIN = 8
"""Bytes that a file grows by at least when its header does."""
_ABOUT = 0.01
"""How near an error has to be to one that nobody asked for any closer."""
_NEAR = (1 / 3, 1.3)
"""How far the step may move, as factors, once the ranks are held."""
_RETRIES = 4
_LOOSEST = 0.5
"""A tolerance is no larger, however small the room."""
_NOTHING = 1e-6
"""Less than this of the relative error is not worth a file."""
_HALVINGS = 4
"""How closely the coarsest step that leaves anything is found."""
_REMEMBERED = 4
"""Outcomes of a search that are kept."""
_ROUNDED = 1e-8
"""What float32 may add to the relative error of a module that is decoded."""
_FINER = 0.95
"""A step finer by this factor tells how bytes follow the error."""
_STEEP = 1.25
"""Where they follow it steeply they do so in jumps, and more than is foreseen."""


@dataclass(frozen=True, eq=False)
class Outcome(Point):
    """A step at which modules were coded.

    Attributes:
        error: relative error |dW - dW'| / |dW|.
        ranks: the ranks it was coded at.
        coded: all modules that have a rank, or those of the sample.
    """

    error: float
    ranks: Mapping[str, int]
    coded: CodedAdapter

    @property
    def useful(self) -> bool:
        """Whether it keeps anything of the update."""
        return bool(self.coded.modules) and self.error < 1 - _NOTHING


@dataclass(eq=False)
class StepSearch:
    """Searches steps of one fitted adapter, and remembers what it found: its bounds, and outcomes of late.

    Attributes:
        total_size: whole file for coded modules at a step.
        fixed_size: whole file without any coded module.
        caps: largest rank of each module, where a parameter budget sets it.
        cut: share of |dW|^2 that is left out at every step.
        effort: how near to its limit an outcome is searched for.
        seen: outcomes of late, by step and ranks.
    """

    fitted: FittedAdapter
    total_size: Callable[[float, CodedAdapter, float], int]
    fixed_size: int
    caps: Mapping[str, int] | None = None
    cut: float = 0.0
    progress: Progress | None = None
    effort: Effort = "default"
    seen: dict[tuple[float, tuple[tuple[str, int], ...]], Outcome] = field(default_factory=dict, init=False)

    @property
    def near(self) -> Tolerances:
        """How near to its limit an outcome has to be."""
        return TOLERANCES[self.effort]

    def foreseen_size(self, coded: float, ranks: Mapping[str, int]) -> int:
        """Bytes of the whole file for `coded` bytes of modules at these ranks."""
        return round(self.fixed_size + INDEX_BYTES * len(ranks) + coded)

    def refine(self, limit: float, *, rising: bool) -> Outcome | None:
        """The best outcome for a distortion (`rising`) or a room in bytes; None if none was found."""
        if rising:
            limit = max(limit - _ROUNDED, limit / 2)
        efforts: tuple[Effort, ...] = ("default", "best") if self.effort == "best" else (self.effort,)
        # Where a search ends is a matter of chance: what less effort finds is sometimes better.
        slope = self._slope(limit) if rising else 1.0
        found = [self._refine(limit, TOLERANCES[effort].where(slope), rising=rising) for effort in efforts]
        return min(
            (one for one in found if one is not None),
            key=lambda one: (one.size, one.distortion) if rising else (one.distortion, one.size),
            default=None,
        )

    def _refine(self, limit: float, near: Tolerances, *, rising: bool) -> Outcome | None:
        """The search is on the sample; then everything is coded, and where the sample misled, it aims again."""
        aim, best = limit, None
        for _ in range(_RETRIES):
            outcome = self._search(aim, near, rising=rising)
            if outcome is None or self.fitted.complete:
                return outcome or best
            outcome = self.code(outcome.step, outcome.ranks)
            value = outcome.distortion if rising else outcome.size - self.fixed_size
            if value <= limit and (best is None or (outcome.size < best.size) == rising):
                best = outcome
            # A distortion of nothing, below what the method's own model leaves out, can't be aimed at any better.
            if limit * (1 - near.miss) < value <= limit or value <= 0:
                break
            aim *= limit / value * (1 - near.error)
        return best

    def _slope(self, limit: float) -> float:
        """How many times as fast the file is foreseen to shrink as a distortion grows, at least 1; it is near 1."""

        def foreseen(step: float) -> tuple[float, float]:
            size, error = expected_at(self.fitted, step, self.caps)
            return self.fixed_size + size, self.distortion(error / self.fitted.energy)

        step = solve(lambda step: foreseen(step)[1], limit, *self.bounds, rising=True)
        size, error = foreseen(step)
        larger, finer = foreseen(step * _FINER)
        if not 0 < finer < error:
            return 1.0
        slope = log(larger / size) / log(error / finer)
        return 1.0 if slope <= 1 else slope**_STEEP

    def about(self, limit: float) -> Outcome | None:
        """An outcome on either side of a distortion that nobody asked for any closer; None if none was found."""
        found = self._pass(limit, self.bounds, None, rising=True, tolerance=_ABOUT, either_side=True)
        return found if found is None or self.fitted.complete else self.code(found.step, found.ranks)

    def held(self, ranks: Mapping[str, int], room: int) -> Outcome | None:
        """The least error in a room at these ranks; None if nothing fits."""
        found = self._pass(room, self.bounds, ranks, rising=False, tolerance=self.near.bytes)
        if found is not None and not self._exact(ranks):
            found = self.code(found.step, ranks)
        return found if found is not None and found.size <= self.fixed_size + room else None

    def reaching(self, ranks: Mapping[str, int], limit: float) -> Outcome | None:
        """The smallest file of these few ranks within a distortion, as near as at all; None if none is."""
        found = self._pass(limit, self.bounds, ranks, rising=True, tolerance=TOLERANCES["best"].error)
        if found is not None and not self._exact(ranks):
            found = self.code(found.step, ranks)
        return found if found is not None and found.distortion <= limit else None

    def _search(self, limit: float, near: Tolerances, *, rising: bool) -> Outcome | None:
        """The best outcome on the sample: first with ranks that follow the step, then with those ranks held."""
        bounds = self.bounds
        coarse = self._pass(limit, bounds, None, rising=rising, tolerance=near.coarse, either_side=True)
        if coarse is not None and not coarse.ranks and rising:
            # It leaves nothing of the update, an error of 1: close to the limit perhaps, but beyond it.
            coarse = self._pass(limit, bounds, None, rising=True, tolerance=near.coarse)
        if coarse is None or not coarse.ranks:
            return coarse
        around = (max(bounds[0], coarse.step * _NEAR[0]), coarse.step * _NEAR[1])
        tolerance = near.error if rising else near.bytes
        fine = self._pass(limit, around, coarse.ranks, rising=rising, tolerance=tolerance, known=coarse)
        return fine or self._pass(limit, bounds, None, rising=rising, tolerance=near.coarse)

    def _pass(
        self,
        limit: float,
        bounds: tuple[float, float],
        ranks: Mapping[str, int] | None,
        *,
        rising: bool,
        tolerance: float,
        known: Outcome | None = None,
        either_side: bool = False,
    ) -> Outcome | None:
        def ranks_at(step: float) -> Mapping[str, int]:
            return self.fitted.ranks(step, self.caps) if ranks is None else ranks

        def predict(step: float) -> float:
            size, error = (
                expected_at(self.fitted, step, self.caps) if ranks is None else expected(self.fitted, step, ranks)
            )
            return self.distortion(error / self.fitted.energy) if rising else size

        def measure(step: float) -> Outcome:
            return self._once(round_step(step), ranks_at(step))

        if not rising:
            tolerance = min(max(tolerance, GRAIN / 2 / limit), _LOOSEST)
        fixed = 0 if rising else self.fixed_size
        return search(
            measure,
            predict,
            limit,
            rising=rising,
            bounds=bounds,
            tolerance=tolerance,
            fixed=fixed,
            known=known,
            either_side=either_side,
        )

    def _once(self, step: float, ranks: Mapping[str, int]) -> Outcome:
        """`measure`, where the search comes back to a step without coding it again."""
        key = (step, tuple(sorted(ranks.items())))
        if key not in self.seen:
            while len(self.seen) >= _REMEMBERED:
                self.seen.pop(next(iter(self.seen)))
            self.seen[key] = self.measure(step, ranks)
        return self.seen[key]

    def measure(self, step: float, ranks: Mapping[str, int]) -> Outcome:
        """A step's size and error, exact, or scaled up from the sample.

        The sample corrects the prediction rather than replacing it: what makes modules differ is predicted well.
        """
        if self._exact(ranks):
            return self.code(step, ranks)
        fitted = self.fitted
        coded = fitted.code(step, ranks, fitted.sample, self.progress)
        size, error = fitted.predict(step, ranks)
        sample_size, sample_error = fitted.predict(step, ranks, fitted.sample)
        shared_size = len(coded.shared.chunk)
        predicted = size - fitted.method.predict_shared(fitted.prepared, fitted.config, step) / 8
        size = shared_size + predicted * (coded.bytes - shared_size) / max(sample_size, 1.0)
        error *= fitted.squared_error(coded, fitted.sample) / sample_error
        share = error / fitted.energy
        return Outcome(step, self.foreseen_size(size, ranks), self.distortion(share), sqrt(share), ranks, coded)

    def _exact(self, ranks: Mapping[str, int]) -> bool:
        """Whether all modules of these ranks are coded at every step."""
        return self.fitted.complete or self.fitted.few(ranks)

    def code(self, step: float, ranks: Mapping[str, int]) -> Outcome:
        """Every module coded at a step, exactly."""
        names = list(self.fitted.profiles)
        coded = self.fitted.code(step, ranks, names, self.progress)
        share = self.fitted.squared_error(coded, names) / self.fitted.energy
        size = self.total_size(step, coded, sqrt(share))
        return Outcome(step, size, self.distortion(share), sqrt(share), ranks, coded)

    def distortion(self, share: float) -> float:
        """Relative error of what the caps leave, given the squared relative error of the whole."""
        return sqrt(max(0.0, share - self.cut) / max(1.0 - self.cut, 1e-12))

    def whole_ranks(self) -> Mapping[str, int]:
        """The ranks at the finest step: all that the caps allow."""
        return self.fitted.ranks(self.bounds[0], self.caps)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Steps between the smallest sensible one and one at which every module vanishes."""
        largest = sqrt(self.fitted.energy)
        smallest = sqrt(max(self.fitted.energies.values())) / MAX_LEVEL
        low, high = smallest, largest
        while high / low > 1.1:
            middle = sqrt(low * high)
            _, error, _ = self.fitted.foresee(middle, self.caps)
            fine = error < (FINEST_ERROR**2 + self.cut) * self.fitted.energy
            low, high = (middle, high) if fine else (low, middle)
        return low, largest

    @cached_property
    def smallest(self) -> Outcome | None:
        """The smallest file that keeps anything of the update, about; None if none does."""
        found = (self._coarsest(ranks) for ranks in cheapest(self.fitted, self.caps))
        return min((one for one in found if one is not None), key=lambda one: one.size, default=None)

    def _coarsest(self, ranks: Mapping[str, int]) -> Outcome | None:
        """These ranks at the coarsest step that leaves anything of them, about."""
        low, high = self.bounds
        step = high
        while (best := self._at(step, ranks)) is None and step > low:
            high, step = step, step / 2
        for _ in range(_HALVINGS if best is not None else 0):
            middle = sqrt(step * high)
            found = self._at(middle, ranks)
            best = found if found is not None and (best is None or found.size <= best.size) else best
            step, high = (step, middle) if found is None else (middle, high)
        return best

    def _at(self, step: float, ranks: Mapping[str, int]) -> Outcome | None:
        """What comes of a step, if that is anything."""
        found = self.code(round_step(step), ranks)
        return found if found.useful else None


def round_step(step: float) -> float:
    """The nearest float32 number: products with levels are then rounded once, on every machine alike."""
    return float(np.float32(step))
