"""A time for the whole run: how many updates fit into it, as some that are made for show tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from adaptzip.distillation.lessons import order
from adaptzip.distillation.loop import Training
from adaptzip.distillation.machines import Machines
from adaptzip.distillation.problem import Problem, State
from adaptzip.distillation.schedules import MOST_STEPS, Schedule
from adaptzip.errors import CheckFailedError, UsageError

_BATCHES = 4
"""Batches of each kind that are timed, from short texts to long ones."""
_AMONG = 32
"""Batches that these are chosen among."""
_LAST = 4
"""What comes after training takes as long as so many files that are tried, about."""
_SPARE = 0.03
"""Share of the time that is left over, since no machine is even."""


@dataclass(frozen=True)
class Pace:
    """What this machine takes, in seconds.

    Attributes:
        plain, quantised: an update before and after the quantiser is in the loop.
        trial: a file that is tried.
    """

    plain: float
    quantised: float
    trial: float


def updates_within(seconds: float, pace: Pace, schedule: Schedule) -> int:
    """Updates that take these seconds with the files that are tried among them; 0 where there is time for none."""
    share = schedule.quantised
    each = (1 - share) * pace.plain + share * (pace.quantised + pace.trial / schedule.every)
    return min(MOST_STEPS, int(max(0.0, seconds - pace.trial) / each))


def paced(problem: Problem, schedule: Schedule, state: State, machines: Machines, began: float) -> Schedule:
    """The schedule with the updates that its minutes allow, and what is left for training as a limit.

    A state that has been planned before keeps its plan.

    Args:
        began: when the run began, by `time.monotonic`.

    Raises:
        CheckFailedError: if the time is over before training, or an update fails.
    """
    if schedule.minutes is None:
        return schedule
    if state.planned is None:
        pace = _measured(problem, schedule, state, machines)
        whole, gone = 60 * schedule.minutes, time.monotonic() - began
        left = machines.agree(whole * (1 - _SPARE) - gone - _LAST * pace.trial)
        steps = int(machines.agree(updates_within(left, pace, schedule)))
        if steps < 1:
            needed = gone + (1 + _LAST) * pace.trial + max(pace.plain, pace.quantised)
            raise CheckFailedError(
                f"{schedule.minutes:g} minutes hold no update: what comes before and after training takes "
                f"{needed:.0f} s",
                hint=f"allow more than {needed / (1 - _SPARE) / 60:.2g} minutes, or give fewer texts",
            )
        state.planned = steps, left
    steps, left = state.planned
    return replace(schedule, steps=steps, seconds=left, minutes=None)


def check_even(schedule: Schedule, growing: bool) -> None:
    """Refuse ranks that grow within a stated time: their updates come before those that are planned.

    Raises:
        UsageError: if they do.
    """
    if growing and schedule.minutes is not None:
        raise UsageError(
            "ranks that grow take updates that no minutes count", hint="give `steps=` in place of `minutes=`"
        )


def _measured(problem: Problem, schedule: Schedule, state: State, machines: Machines) -> Pace:
    """Times some updates of each kind, and one file; what they change is thrown away."""
    batches = _sample(problem, schedule)
    shown = replace(
        state, parameters={place: tensor.detach().clone() for place, tensor in state.parameters.items()}, optimizer={}
    )
    trial = _seconds(lambda: _try(problem, shown))
    plain = _of_updates(problem, replace(schedule, quantised=0.0), shown, machines, batches)
    late = replace(schedule, quantised=1.0)
    quantised = _of_updates(problem, late, shown, machines, batches) if schedule.quantised else plain
    return Pace(plain, quantised, trial)


def _try(problem: Problem, state: State) -> None:
    tensors = problem.tensors
    with suppress(CheckFailedError):
        tensors = problem.fill(tensors, state.quantiser).tensors
    problem.score(tensors)


def _of_updates(
    problem: Problem, schedule: Schedule, state: State, machines: Machines, batches: Sequence[list[int]]
) -> float:
    training = Training(problem, schedule, state, machines)
    # The first one of a kind also sets up what the others use.
    training.advance(batches[-1])
    return sum(_seconds(lambda batch=batch: training.advance(batch)) for batch in batches) / len(batches)  # type: ignore[misc]


def _sample(problem: Problem, schedule: Schedule) -> list[list[int]]:
    """Batches of short texts to long ones, at even places among some of the first epoch."""
    lengths = [len(text.ids) for text in problem.teacher.texts]
    first = list(islice(order(lengths, schedule.batch, schedule.seed), _AMONG))
    first.sort(key=lambda batch: max(lengths[i] for i in batch))
    return [first[(2 * n + 1) * len(first) // (2 * _BATCHES)] for n in range(_BATCHES)]


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
