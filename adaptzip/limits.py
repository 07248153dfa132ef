"""From a budget and an error to the step that meets them: rate control over a fitted adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from adaptzip.coding.rate import TOLERANCE, Point, search, solve
from adaptzip.coding.trellis import MAX_LEVEL
from adaptzip.errors import CheckFailedError
from adaptzip.fitting import CodedAdapter, FittedAdapter, Progress

DEFAULT_ERROR = 0.1
"""Relative error asked for where neither budget nor error is."""
FINEST_ERROR = 1e-4
"""A size budget is not filled beyond this relative error."""
_COARSE = 0.03
_NEAR = (1 / 3, 1.3)
"""How far the step may move, as factors, once the ranks are held."""
_RETRIES = 4
_MISS = 0.009
"""An outcome that stays this far below its limit, as a share, is aimed at again."""
_INDEX_BYTES = 2
"""What a module's entry in the index takes, about."""
_BYTE_TOLERANCE = 0.006
_REMEMBERED = 4
"""Outcomes of a search that are kept."""


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


@dataclass(frozen=True, eq=False)
class RateControl:
    """Searches steps of one fitted adapter.

    Attributes:
        total_size: whole file for coded modules at a step.
        fixed_size: whole file without any coded module.
        extras_size: what extras take of that.
        caps: largest rank of each module, where a parameter budget sets it.
        cut: share of |dW|^2 that is left out at every step.
        seen: outcomes of late, by step and ranks.
    """

    fitted: FittedAdapter
    total_size: Callable[[float, CodedAdapter, float], int]
    fixed_size: int
    extras_size: int = 0
    caps: Mapping[str, int] | None = None
    cut: float = 0.0
    progress: Progress | None = None
    seen: dict[Any, Outcome] = field(default_factory=dict, init=False)

    def meet(self, limits: Limits) -> Outcome:
        """The best outcome within the limits: the smallest file for an error, else the smallest error for a size.

        Raises:
            CheckFailedError: if they can't be met.
        """
        self._check(limits)
        if limits.error is not None:
            outcome = self._refine(self._distortion(limits.error**2), rising=True)
            if limits.size is not None and outcome.size > limits.size:
                raise CheckFailedError(
                    f"relative error {limits.error:g} takes {outcome.size} bytes, more than the {limits.size} allowed",
                    hint="allow more bytes, or a larger error",
                )
            return outcome
        size = limits.size or 0
        outcome = self._refine(size, rising=False)
        if not outcome.coded.modules:
            raise CheckFailedError(
                f"{size} bytes leave no room for any module: without one the file takes {self.fixed_size}",
                hint=self._room_hint(),
            )
        return outcome

    def foresee(self, limits: Limits) -> tuple[float, dict[str, int]]:
        """The step and ranks at which the method's own model meets the limits; nothing is coded.

        Raises:
            CheckFailedError: if it is certain already that they can't be met.
        """
        self._check(limits)
        rising = limits.error is not None
        limit = float(limits.size or 0) if limits.error is None else self._distortion(limits.error**2)

        def value(step: float) -> float:
            size, error = self.fitted.predict(step, self.fitted.ranks(step, self.caps))
            return self._distortion(error / self.fitted.energy) if rising else self.fixed_size + size

        step = solve(value, limit, *self._bounds(), rising)
        return step, self.fitted.ranks(step, self.caps)

    def foreseen_size(self, coded: float, ranks: Mapping[str, int]) -> int:
        """Bytes of the whole file for `coded` bytes of modules at these ranks."""
        return round(self.fixed_size + _INDEX_BYTES * len(ranks) + coded)

    def _check(self, limits: Limits) -> None:
        """Refuse what no step can meet."""
        if limits.error is not None:
            if limits.error**2 <= self.cut:
                raise CheckFailedError(
                    f"relative error {limits.error:g} cannot be reached: these settings leave at least "
                    f"{sqrt(self.cut):.3g}",
                    hint="allow more parameters or a larger error, or choose another method",
                )
        else:
            self.check_size(limits.size or 0)

    def check_size(self, size: int, reserved: int = 0) -> None:
        """Refuse a size that the file has without any module.

        Args:
            reserved: bytes that were taken off the size asked for, and that the file will take besides.

        Raises:
            CheckFailedError: if it is too small.
        """
        if size < self.fixed_size:
            raise CheckFailedError(
                f"{size + reserved} bytes cannot be reached: without any module the file takes "
                f"{self.fixed_size + reserved}",
                hint=self._room_hint(),
            )

    def _refine(self, limit: float, *, rising: bool) -> Outcome:
        """Search on the sample, then code everything; where the sample misled, aim again."""
        aim, best = limit, None
        for _ in range(_RETRIES):
            outcome = self._search(aim, rising=rising)
            if self.fitted.complete:
                return outcome
            outcome = self._code(outcome.step, outcome.ranks, list(self.fitted.profiles))
            value = outcome.distortion if rising else outcome.size
            if value <= limit and (best is None or (outcome.size < best.size) == rising):
                best = outcome
            # A distortion of nothing, below what the method's own model leaves out, can't be aimed at any better.
            if limit * (1 - _MISS) < value <= limit or value == 0:
                break
            aim *= limit / value * (1 - TOLERANCE)
        if best is None:
            raise CheckFailedError(f"no step was found that keeps to {limit:g}", hint="allow a little more")
        return best

    def _search(self, limit: float, *, rising: bool) -> Outcome:
        """The best outcome on the sample: first with ranks that follow the step, then with those ranks held."""
        bounds = self._bounds()
        coarse = self._pass(limit, bounds, None, rising, _COARSE)
        if coarse is None and rising:
            cause = "by quantisation" if self.caps is None else "with so few parameters"
            hint = "use --lossless" if self.caps is None else "allow more parameters, or a larger error"
            raise CheckFailedError(f"relative error {limit:g} cannot be reached {cause}", hint=hint)
        if coarse is None:
            return self._measure(round_step(bounds[1]), {})
        near = (max(bounds[0], coarse.step * _NEAR[0]), coarse.step * _NEAR[1])
        fine = self._pass(limit, near, coarse.ranks, rising, TOLERANCE if rising else _BYTE_TOLERANCE)
        return coarse if fine is None else fine

    def _pass(
        self,
        limit: float,
        bounds: tuple[float, float],
        ranks: Mapping[str, int] | None,
        rising: bool,
        tolerance: float,
    ) -> Outcome | None:
        def ranks_at(step: float) -> Mapping[str, int]:
            return self.fitted.ranks(step, self.caps) if ranks is None else ranks

        def predict(step: float) -> float:
            size, error = self.fitted.predict(step, ranks_at(step))
            return self._distortion(error / self.fitted.energy) if rising else self.fixed_size + size

        def measure(step: float) -> Outcome:
            return self._once(round_step(step), ranks_at(step))

        return search(measure, predict, limit, rising=rising, bounds=bounds, tolerance=tolerance)

    def _once(self, step: float, ranks: Mapping[str, int]) -> Outcome:
        """`_measure`, where the search comes back to a step without coding it again."""
        key = (step, tuple(sorted(ranks.items())))
        if key not in self.seen:
            while len(self.seen) >= _REMEMBERED:
                self.seen.pop(next(iter(self.seen)))
            self.seen[key] = self._measure(step, ranks)
        return self.seen[key]

    def _measure(self, step: float, ranks: Mapping[str, int]) -> Outcome:
        """A step's size and error, exact, or scaled up from the sample.

        The sample corrects the prediction rather than replacing it: what makes modules differ is predicted well.
        """
        fitted = self.fitted
        if fitted.complete:
            return self._code(step, ranks, fitted.sample)
        coded = fitted.code(step, ranks, fitted.sample, self.progress)
        size, error = fitted.predict(step, ranks)
        sample_size, sample_error = fitted.predict(step, ranks, fitted.sample)
        shared_size = len(coded.shared.chunk)
        predicted = size - fitted.method.predict_shared(fitted.prepared, fitted.config, step) / 8
        size = shared_size + predicted * (coded.bytes - shared_size) / max(sample_size, 1.0)
        error *= fitted.squared_error(coded, fitted.sample) / sample_error
        share = error / fitted.energy
        return Outcome(step, self.foreseen_size(size, ranks), self._distortion(share), sqrt(share), ranks, coded)

    def _code(self, step: float, ranks: Mapping[str, int], names: Sequence[str]) -> Outcome:
        """Code every module."""
        coded = self.fitted.code(step, ranks, names, self.progress)
        share = self.fitted.squared_error(coded, names) / self.fitted.energy
        size = self.total_size(step, coded, sqrt(share))
        return Outcome(step, size, self._distortion(share), sqrt(share), ranks, coded)

    def _room_hint(self) -> str:
        smaller = f"allow more bytes, or pack the extras ({self.extras_size} bytes) smaller with --extras int8"
        return smaller if self.extras_size else "allow more bytes"

    def _distortion(self, share: float) -> float:
        """Relative error of what the caps leave, given the squared relative error of the whole."""
        return sqrt(max(0.0, share - self.cut) / max(1.0 - self.cut, 1e-12))

    def _bounds(self) -> tuple[float, float]:
        """Steps between the smallest sensible one and one at which every module vanishes."""
        largest = sqrt(self.fitted.energy)
        smallest = sqrt(max(p.energy for p in self.fitted.profiles.values())) / MAX_LEVEL
        low, high = smallest, largest
        while high / low > 1.1:
            middle = sqrt(low * high)
            _, error = self.fitted.predict(middle, self.fitted.ranks(middle, self.caps))
            fine = error < (FINEST_ERROR**2 + self.cut) * self.fitted.energy
            low, high = (middle, high) if fine else (low, middle)
        return low, largest


def round_step(step: float) -> float:
    """The nearest float32 number: products with levels are then rounded once, on every machine alike."""
    return float(np.float32(step))
