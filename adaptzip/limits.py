"""From a budget and an error to the step that meets them: rate control over a fitted adapter."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np

from adaptzip.coding.modules import CodedModule
from adaptzip.coding.rate import TOLERANCE, Point, search, solve
from adaptzip.coding.trellis import MAX_LEVEL
from adaptzip.errors import CheckFailedError
from adaptzip.fitting import FittedAdapter, Progress

DEFAULT_ERROR = 0.1
"""Relative error asked for where neither budget nor error is."""
FINEST_ERROR = 1e-4
"""A size budget is not filled beyond this relative error."""
_COARSE = 0.03
_RETRIES = 4
_BYTE_TOLERANCE = 0.006


@dataclass(frozen=True)
class Limits:
    """What a file must keep to; at least one is given.

    Attributes:
        size: most bytes of the whole file.
        error: largest relative error of the update.
    """

    size: int | None = None
    error: float | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A coded adapter.

    Attributes:
        step: the quantiser step.
        coded: the modules that have a rank.
        size: bytes of the whole file.
        error: relative error.
    """

    step: float
    coded: Mapping[str, CodedModule]
    size: int
    error: float


@dataclass(frozen=True, eq=False)
class RateControl:
    """Searches steps of one fitted adapter.

    Attributes:
        total_size: whole file for coded modules at a step.
        fixed_size: whole file without any coded module.
        caps: largest rank of each module, where a parameter budget sets it.
    """

    fitted: FittedAdapter
    total_size: Callable[[float, Mapping[str, CodedModule], float], int]
    fixed_size: int
    caps: Mapping[str, int] | None = None
    progress: Progress | None = None

    def meet(self, limits: Limits) -> Outcome:
        """The best outcome within the limits: the smallest file for an error, else the smallest error for a size.

        Raises:
            CheckFailedError: if they can't be met.
        """
        if limits.error is not None:
            outcome = self._refine(limits.error, rising=True)
            if limits.size is not None and outcome.size > limits.size:
                raise CheckFailedError(
                    f"relative error {limits.error:g} takes {outcome.size} bytes, more than the {limits.size} allowed",
                    hint="allow more bytes, or a larger error",
                )
            return outcome
        size = limits.size or 0
        if size < self.fixed_size:
            raise CheckFailedError(
                f"{size} bytes cannot be reached: without any module the file takes {self.fixed_size}",
                hint="allow more bytes, or pack the extras smaller with --extras int8",
            )
        return self._refine(size, rising=False)

    def foresee(self, limits: Limits) -> tuple[float, dict[str, int]]:
        """The step and ranks at which the method's own model meets the limits; nothing is coded."""
        rising = limits.error is not None
        limit = limits.error if limits.error is not None else float(limits.size or 0)

        def value(step: float) -> float:
            size, error = self.fitted.predict(step, self.fitted.ranks(step, self.caps))
            return sqrt(error / self.fitted.energy) if rising else self.fixed_size + size

        step = solve(value, limit, *self._bounds(), rising)
        return step, self.fitted.ranks(step, self.caps)

    def _refine(self, limit: float, *, rising: bool) -> Outcome:
        """Search on the sample, then code everything; where the sample misled, aim again."""
        aim = limit
        for _ in range(_RETRIES):
            point = self._search(aim, rising=rising)
            outcome = self._code_all(point)
            value = outcome.error if rising else outcome.size
            if value <= limit:
                return outcome
            aim *= limit / value * (1 - TOLERANCE)
        raise CheckFailedError(f"no step was found that keeps to {limit:g}; the last one gave {value:g}")

    def _search(self, limit: float, *, rising: bool) -> tuple[float, Mapping[str, int]]:
        """A step and the ranks at it: first with ranks that follow the step, then with those ranks held."""
        bounds = self._bounds()
        coarse = self._pass(limit, bounds, None, rising, _COARSE)
        if coarse is None and rising:
            raise CheckFailedError(f"relative error {limit:g} cannot be reached by quantisation", hint="use --lossless")
        if coarse is None:
            return round_step(bounds[1]), {}
        ranks = self.fitted.ranks(coarse.step, self.caps)
        near = (max(bounds[0], coarse.step / 1.3), coarse.step * 1.3)
        fine = self._pass(limit, near, ranks, rising, TOLERANCE if rising else _BYTE_TOLERANCE)
        return (coarse if fine is None else fine).step, ranks

    def _pass(
        self,
        limit: float,
        bounds: tuple[float, float],
        ranks: Mapping[str, int] | None,
        rising: bool,
        tolerance: float,
    ) -> Point | None:
        def ranks_at(step: float) -> Mapping[str, int]:
            return self.fitted.ranks(step, self.caps) if ranks is None else ranks

        def predict(step: float) -> float:
            size, error = self.fitted.predict(step, ranks_at(step))
            return sqrt(error / self.fitted.energy) if rising else self.fixed_size + size

        def measure(step: float) -> Point:
            step = round_step(step)
            size, error = self._measure(step, ranks_at(step))
            return Point(step, size, error if rising else size)

        return search(measure, predict, limit, rising=rising, bounds=bounds, tolerance=tolerance)

    def _measure(self, step: float, ranks: Mapping[str, int]) -> tuple[float, float]:
        """(bytes of the whole file, relative error), exact, or scaled up from the sample.

        The sample corrects the prediction rather than replacing it: what makes modules differ is predicted well.
        """
        fitted = self.fitted
        coded = fitted.code(step, ranks, fitted.sample, self.progress)
        if fitted.complete:
            error = sqrt(fitted.squared_error(coded, fitted.sample) / fitted.energy)
            return self.total_size(step, coded, error), error
        size, error = fitted.predict(step, ranks)
        sample_size, sample_error = fitted.predict(step, ranks, fitted.sample)
        size *= sum(len(c.chunk) for c in coded.values()) / max(sample_size, 1.0)
        error *= fitted.squared_error(coded, fitted.sample) / sample_error
        return self.fixed_size + 2 * len(ranks) + size, sqrt(error / fitted.energy)

    def _code_all(self, point: tuple[float, Mapping[str, int]]) -> Outcome:
        step, ranks = point
        names = list(self.fitted.profiles)
        coded = self.fitted.code(step, ranks, names, self.progress)
        error = sqrt(self.fitted.squared_error(coded, names) / self.fitted.energy)
        return Outcome(step, coded, self.total_size(step, coded, error), error)

    def _bounds(self) -> tuple[float, float]:
        """Steps between the smallest sensible one and one at which every module vanishes."""
        largest = sqrt(self.fitted.energy)
        smallest = sqrt(max(p.energy for p in self.fitted.profiles.values())) / MAX_LEVEL
        low, high = smallest, largest
        while high / low > 1.1:
            middle = sqrt(low * high)
            _, error = self.fitted.predict(middle, self.fitted.ranks(middle, self.caps))
            low, high = (middle, high) if error < FINEST_ERROR**2 * self.fitted.energy else (low, middle)
        return low, largest


def round_step(step: float) -> float:
    """The nearest float32 number: products with levels are then rounded once, on every machine alike."""
    return float(np.float32(step))


def parameter_caps(fitted: FittedAdapter, parameters: int) -> dict[str, int]:
    """The largest rank of each module so that at most `parameters` numbers are stored, best components first."""
    queue = [(-profile.scores[0], name) for name, profile in fitted.profiles.items()]
    heapq.heapify(queue)
    caps = dict.fromkeys(fitted.profiles, 0)
    left = parameters
    while queue:
        _, name = heapq.heappop(queue)
        cost = fitted.numbers(name, caps[name] + 1) - fitted.numbers(name, caps[name])
        if cost > left:
            continue
        left -= cost
        caps[name] += 1
        scores = fitted.profiles[name].scores
        if caps[name] < len(scores):
            heapq.heappush(queue, (-scores[caps[name]], name))
    return caps


def capped_error(fitted: FittedAdapter, caps: Mapping[str, int]) -> float:
    """The relative error to aim at under caps: what is cut away, and the rest coded at `DEFAULT_ERROR`."""
    _, cut = fitted.predict(sqrt(fitted.energy) * 1e-9, caps)
    return sqrt((cut + DEFAULT_ERROR**2 * (fitted.energy - cut)) / fitted.energy)
