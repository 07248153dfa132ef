"""From a budget and an error to the step that meets them: rate control over a fitted adapter.

A size limits the whole file, but what is chosen is how to use the room in it: what the file takes without any module,
such as header, tables and extras, is taken off first, and every tolerance is a share of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt

from adaptzip.errors import CheckFailedError, NoRoomError, OutOfReachError
from adaptzip.fitting.rate import solve
from adaptzip.fitting.small_rooms import MOST, expected_at, filled, promising, sufficient
from adaptzip.fitting.steps import FINEST_ERROR, GRAIN, Outcome, StepSearch, round_step

DEFAULT_ERROR = 0.1
"""Relative error asked for where neither budget nor error is."""
_TRIED, _ATTEMPTS = 3, 8
"""Sets of few components of which something is left in the room, and how many are coded to find so many."""
_NUDGE, _NUDGES = 0.97, 6
"""Finer steps that are tried where room is left: each by this factor, and how many."""
_BELOW = 1e-9
"""How far below the step that was searched, relatively, an error is within its limit; more than the search leaves."""
_SHORT = 0.03
"""An error this far below the one asked for, as a share of it, is worth another look."""
_SPARSE = 0.9
"""From this error on few components may be enough."""
_MISS = 0.009
"""A foreseen size that is off by this share of the room is near enough."""
_CODED_ROOM = 256
"""In rooms of so many bytes nothing is foreseen: they are coded at once."""


@dataclass(frozen=True)
class Limits:
    """What a file must keep to.

    Attributes:
        size: most bytes of the whole file.
        error: largest relative error of the update.
        aim: relative error to come near to where neither of these is given; nobody asked for it.
    """

    size: int | None = None
    error: float | None = None
    aim: float = DEFAULT_ERROR


@dataclass(frozen=True, eq=False)
class RateControl:
    """Meets limits with one fitted adapter.

    Attributes:
        steps: the search for a step.
        extras_size: bytes of extras that can be packed smaller, else 0.
        reserved: bytes that were taken off the size asked for, and that the file will take besides.
    """

    steps: StepSearch
    extras_size: int = 0
    reserved: int = 0

    def meet(self, limits: Limits) -> Outcome:
        """The best outcome within the limits: the smallest file for an error, else the smallest error for a size.

        Raises:
            NoRoomError: if no module fits into the size.
            CheckFailedError: if the limits can't be met.
        """
        self._check(limits)
        if limits.error is None:
            return self._near(limits.aim) if limits.size is None else self._filled(limits.size)
        steps = self.steps
        outcome = steps.refine(steps.distortion(limits.error**2), rising=True)
        if outcome is None or limits.error >= _SPARSE or outcome.error < limits.error * (1 - _SHORT):
            outcome = self._sparing(outcome, limits.error)
        if outcome is None:
            cause, hint = (
                ("by quantisation", "use `lossless=True`") if steps.caps is None else ("with these ranks", _MORE)
            )
            raise CheckFailedError(f"relative error {limits.error:g} cannot be reached {cause}", hint=hint)
        if limits.size is not None and outcome.size > limits.size:
            raise CheckFailedError(
                f"relative error {limits.error:g} takes {outcome.size + self.reserved} bytes, more than the "
                f"{limits.size + self.reserved} allowed",
                hint="allow more bytes, or a larger error",
            )
        return outcome

    def foresee(self, limits: Limits) -> tuple[float, Mapping[str, int]]:
        """The step and ranks at which the method's own model meets the limits.

        Nothing is coded, but where there is room for next to nothing.

        Raises:
            NoRoomError: if no module fits into the size.
            CheckFailedError: if it is certain already that the limits can't be met.
        """
        self._check(limits)
        if limits.error is None and limits.size is not None:
            return self._foresee_size(limits.size)
        steps, fitted = self.steps, self.steps.fitted
        error = limits.aim if limits.error is None else limits.error

        def value(step: float) -> float:
            return steps.distortion(fitted.foresee(step, steps.caps)[1] / fitted.energy)

        # Just below where the error passes its limit, which it may do in a jump.
        step = solve(value, steps.distortion(error**2), *steps.bounds, rising=True) * (1 - _BELOW)
        return step, fitted.ranks(step, steps.caps)

    def _foresee_size(self, size: int) -> tuple[float, Mapping[str, int]]:
        """As `foresee`, for a size."""
        steps, fitted = self.steps, self.steps.fitted
        room = size - steps.fixed_size
        if room <= _CODED_ROOM:
            found = self._filled(size)
            return found.step, found.ranks

        def value(step: float) -> float:
            return expected_at(fitted, step, steps.caps)[0]

        step = solve(value, room, *steps.bounds, rising=False)
        ranks = fitted.ranks(step, steps.caps)
        if ranks and abs(value(step) - room) <= _MISS * room or step <= steps.bounds[0] * (1 + _MISS):
            return step, ranks
        # Ranks that follow the step jump over the room: those above it are held.
        ranks = fitted.ranks(step * (1 + _MISS), steps.caps)
        held = [filled(fitted, ranks, room, steps.bounds)] if ranks else []
        sets = [*held, *promising(fitted, steps.caps, room, steps.bounds)]
        best = min((few for few in sets if few.size <= room * (1 + _MISS)), key=lambda few: few.error, default=None)
        if best is None:
            found = self._filled(size)
            return found.step, found.ranks
        return best.step, best.ranks

    def check_size(self, size: int) -> None:
        """Refuse a size that the file has without any module.

        Raises:
            NoRoomError: if it is too small.
        """
        if size < self.steps.fixed_size:
            raise self.no_room(size)

    def no_room(self, size: int) -> NoRoomError:
        """What is said of a size that holds no module."""
        smallest = self.steps.smallest
        least = None if smallest is None else round(smallest.size) + self.reserved
        asked, fixed = size + self.reserved, self.steps.fixed_size + self.reserved
        cause = "cannot be reached" if asked < fixed else "leave no room for any module"
        hint = "choose other settings, or another method" if least is None else f"allow at least {least}B"
        if least is not None and self.extras_size // 2 >= least - asked:
            hint += f", or pack the extras ({self.extras_size} bytes) smaller with `extras='int8'`"
        return NoRoomError(f"{asked} bytes {cause}: without any module the file takes {fixed}", hint=hint, least=least)

    def _check(self, limits: Limits) -> None:
        """Refuse what no step can meet."""
        cut = self.steps.cut
        if limits.error is not None and limits.error**2 <= cut:
            hint = _OTHER if self.steps.caps is None else _MORE
            raise OutOfReachError(limits.error, sqrt(cut), hint=hint)
        if limits.size is not None:
            self.check_size(limits.size)

    def _sparing(self, outcome: Outcome | None, error: float) -> Outcome | None:
        """Where all components vanish at nearly one step, few of them at a step of their own may come closer."""
        steps = self.steps
        if steps.fitted.fixed_ranks:
            return outcome
        room = inf if outcome is None else outcome.size - steps.fixed_size
        sets = sufficient(steps.fitted, steps.caps, room, error**2 * steps.fitted.energy, steps.bounds)[:_TRIED]
        found = (outcome, steps.smallest, *(steps.reaching(few.ranks, steps.distortion(error**2)) for few in sets))
        reached = [one for one in found if one is not None and one.useful and one.error <= error]
        return min(reached, key=lambda one: one.size, default=None)

    def _near(self, aim: float) -> Outcome:
        """The smallest file of about this error, or where none comes near, the one of the finest step."""
        steps = self.steps
        limit = steps.distortion(aim**2)
        # Where ranks do not follow the step, a step that is found roughly leaves nothing to be settled.
        found = steps.about(limit) if steps.fitted.fixed_ranks else steps.refine(limit, rising=True)
        return found or steps.measure(round_step(steps.bounds[0]), steps.whole_ranks())

    def _filled(self, size: int) -> Outcome:
        """The least error in a size; where one step for all leaves much of the room, few components get their own."""
        steps = self.steps
        room = size - steps.fixed_size
        best = steps.refine(room, rising=False) if room > 0 else None
        if room > 0 and (best is None or not self._enough(best, size)):
            found = (best, *self._few(room, inf if best is None else best.error))
            useful = [one for one in found if one is not None and one.useful]
            best = min(useful, key=lambda one: one.error, default=None)
            best = best and self._nudged(best, size)
        best = best or self.steps.smallest
        if best is None or best.size > size:
            raise self.no_room(size)
        return best

    def _nudged(self, best: Outcome, size: int) -> Outcome:
        """The same ranks at slightly finer steps: headers grow in grains, so that sizes do not fall evenly."""
        if self._enough(best, size):
            return best
        steps = (round_step(best.step * _NUDGE**n) for n in range(1, _NUDGES))
        found = [self.steps.code(step, best.ranks) for step in steps if step > self.steps.bounds[0]]
        return min((best, *(one for one in found if one.size <= size)), key=lambda one: one.error)

    def _enough(self, outcome: Outcome, size: int) -> bool:
        """Whether no other choice of components would do much better."""
        full = size - outcome.size <= max(self.steps.near.miss * (size - self.steps.fixed_size), GRAIN)
        many = sum(outcome.ranks.values()) > MOST
        return outcome.useful and (full or many or outcome.distortion <= 2 * FINEST_ERROR)

    def _few(self, room: int, error: float) -> list[Outcome]:
        """Few components in a room, where they are expected to leave less than this relative error."""
        steps = self.steps
        sets = promising(steps.fitted, steps.caps, room, steps.bounds)
        better = [few.ranks for few in sets if few.error < error**2 * steps.fitted.energy]
        found: list[Outcome] = []
        for ranks in better[:_ATTEMPTS]:
            outcome = steps.held(ranks, room)
            if outcome is not None and outcome.useful:
                found.append(outcome)
            if len(found) == _TRIED:
                break
        return found


_MORE = "allow a larger error, or more parameters or higher ranks"
_OTHER = "allow a larger error, or choose other settings or another method"
