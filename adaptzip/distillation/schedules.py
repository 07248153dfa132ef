"""How long and how fast a compressed adapter is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, inf, isfinite, pi

from adaptzip.distillation.losses import LossWeights
from adaptzip.errors import UsageError

_WARM_UP = 20
"""Steps over which the learning rate rises."""
_LAST_RATE = 0.01
_TRIES = 20
MOST_STEPS = 1_000_000
"""Updates that are planned for a stated time, at most."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: updates of the tensors; with `minutes` they are chosen.
        batch: texts per update, over all processes.
        micro: texts run through the model at once; None runs a batch whole.
        rate: learning rate of Adam, as a share of the root mean square that spreads the teacher's |dW| evenly over
            the trained numbers; None for the method's own.
        quantised: share of the steps, the last ones, that run at the step of the file.
        every: steps between two files that are tried, in that part.
        seconds: time after which training ends; its parts are shorter then in proportion. None for no limit.
        minutes: time of the whole run, with what comes before and after training, which decides the steps; None where
            they are given.
        seed: of the order of texts.
        weights: of the losses.
    """

    steps: int = 1000
    batch: int = 32
    micro: int | None = None
    rate: float | None = None
    quantised: float = 0.5
    every: int = 50
    seconds: float | None = None
    minutes: float | None = None
    seed: int = 0
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        micro = self.batch if self.micro is None else self.micro
        for name, number in {"steps": self.steps, "batch": self.batch, "every": self.every, "micro": micro}.items():
            if number < 1:
                raise UsageError(f"{name} is {number}, expected 1 or more")
        if self.rate is not None and not (isfinite(self.rate) and self.rate > 0):
            raise UsageError(f"rate is {self.rate:g}, expected more than 0")
        if not 0 <= self.quantised <= 1:
            raise UsageError(f"the quantised share is {self.quantised:g}, expected 0 to 1")
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"the time allowed is {self.seconds:g} s, expected more than 0")
        if self.minutes is not None and not 0 < self.minutes < inf:
            raise UsageError(f"the time of the run is {self.minutes:g} minutes, expected more than 0")
        if self.minutes is not None and self.seconds is not None:
            raise UsageError("a run has a time of its own, or training has: minutes and seconds are both given")

    @property
    def most(self) -> int:
        """Most updates that there may be."""
        return self.steps if self.minutes is None else MOST_STEPS

    @property
    def first_quantised(self) -> int:
        """The step from which the quantiser is in the loop, if time allows."""
        return round(self.steps * (1 - self.quantised))

    def done(self, step: int, seconds: float) -> float:
        """Share of the run that is over, by steps or by the time allowed, whichever is further."""
        return max(step / self.steps, 0.0 if self.seconds is None else min(1.0, seconds / self.seconds))

    def tries(self, step: int, seconds: float, before: float) -> bool:
        """Whether a file is tried after this step; also after every twentieth of a run that time cuts short.

        Args:
            before: what was `done` before the step.
        """
        cut = self.seconds is not None and seconds / self.seconds > step / self.steps
        crossed = cut and int(_TRIES * self.done(step, seconds)) > int(_TRIES * before)
        return step % self.every == 0 or step == self.steps or crossed

    def is_quantised(self, step: int, seconds: float) -> bool:
        """Whether the quantiser is in the loop by now."""
        return step >= self.first_quantised or self.done(step, seconds) >= 1 - self.quantised

    def share_of_rate(self, step: int, seconds: float) -> float:
        """Share of the learning rate: a short rise, then half a cosine."""
        rise = min(1.0, (step + 1) / _WARM_UP)
        return rise * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + cos(pi * self.done(step, seconds))))
