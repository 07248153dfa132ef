"""A stated time for the whole run: the updates that fit into it, and what is kept of a plan."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptzip.core.budget import Budget
from adaptzip.distillation import pacing
from adaptzip.distillation.distilling import distill
from adaptzip.distillation.loop import first_state
from adaptzip.distillation.pacing import Pace, paced, updates_within
from adaptzip.distillation.preparing import DataOptions, Setup, prepare
from adaptzip.distillation.problem import State
from adaptzip.distillation.resuming import load_state, save_state
from adaptzip.distillation.schedules import MOST_STEPS, Schedule
from adaptzip.errors import CheckFailedError, UsageError
from adaptzip.fitting.requests import Request
from tests.cases.teachers import SHORT, classifier, texts

MINUTES = replace(SHORT, minutes=1.0)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    base, teacher = classifier(tmp_path)
    request = Request(budget=Budget.parse("6kB"), base=base, device="cpu")
    return prepare(
        None, teacher=teacher, base=base, data=texts(), request=request, schedule=MINUTES, options=DataOptions()
    )


def planned(setup: Setup, state: State, began: float = 0.0) -> Schedule:
    return paced(setup.problem, setup.schedule, state, setup.machines, began)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves a tenth of a second whenever it is read."""
    clock = count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 10)


@pytest.mark.parametrize(("quantised", "every"), [(0.0, 50), (0.5, 50), (0.5, 5), (1.0, 10)])
def test_updates_and_trials_take_the_time(quantised: float, every: int) -> None:
    pace = Pace(plain=0.5, quantised=0.75, trial=8.0)
    schedule = Schedule(quantised=quantised, every=every)

    def taken(steps: int) -> float:
        late = steps * quantised
        return (steps - late) * pace.plain + late * pace.quantised + late / every * pace.trial + pace.trial

    steps = updates_within(600, pace, schedule)
    assert taken(steps) <= 600 < taken(steps + 1)


def test_no_time_holds_no_update_and_long_ones_are_bounded() -> None:
    pace = Pace(0.5, 0.75, 8.0)
    assert updates_within(8.1, pace, Schedule()) == updates_within(-5.0, pace, Schedule()) == 0
    assert updates_within(1e9, pace, Schedule()) == MOST_STEPS


@pytest.mark.usefixtures("ticking")
def test_what_is_timed_decides_the_plan(setup: Setup) -> None:
    """Everything takes a tenth of a second by this clock, so that a plan follows from it."""
    state = first_state(setup.problem, setup.beginning.step)
    before = {place: tensor.clone() for place, tensor in state.parameters.items()}
    schedule = planned(setup, state)
    assert schedule.minutes is None
    assert schedule.seconds is not None
    assert 50 < schedule.seconds < 58.2 - 0.4
    assert schedule.steps == updates_within(schedule.seconds, Pace(0.1, 0.1, 0.1), MINUTES)
    assert state.planned == (schedule.steps, schedule.seconds)
    # What was timed changed nothing.
    assert (state.step, state.optimizer, state.quantised) == (0, {}, False)
    assert all(torch.equal(tensor, before[place]) for place, tensor in state.parameters.items())


@pytest.mark.usefixtures("ticking")
def test_less_is_left_for_training_the_later_it_begins(setup: Setup) -> None:
    state = first_state(setup.problem, setup.beginning.step)
    later = planned(setup, replace(state, planned=None), began=time.monotonic() - 40.0)
    assert later.steps < planned(setup, replace(state, planned=None), began=time.monotonic()).steps - 300
    with pytest.raises(CheckFailedError, match="1 minutes hold no update: what comes before and after") as caught:
        planned(setup, state, began=time.monotonic() - 60.0)
    assert "allow more than 1" in str(caught.value.hint)


def test_a_run_that_goes_on_keeps_its_plan(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = replace(first_state(setup.problem, setup.beginning.step), planned=(17, 4.5))
    save_state(tmp_path / "progress", state, "mark")
    monkeypatch.setattr(pacing, "_measured", lambda *_: pytest.fail("timed again"))
    schedule = planned(setup, load_state(tmp_path / "progress", "mark"))
    assert (schedule.steps, schedule.seconds, schedule.minutes) == (17, 4.5, None)


def test_steps_that_are_given_are_kept(setup: Setup) -> None:
    state = first_state(setup.problem, setup.beginning.step)
    assert paced(setup.problem, SHORT, state, setup.machines, 0.0) is SHORT
    assert state.planned is None


def test_the_whole_run_ends_within_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many updates as were planned, all of them made."""
    base, teacher = classifier(tmp_path)
    plans: list[Schedule] = []
    plan = pacing.paced

    def watched(*given: Any) -> Schedule:
        plans.append(replace(plan(*given), steps=9, seconds=3600.0))
        return plans[-1]

    monkeypatch.setattr("adaptzip.distillation.distilling.paced", watched)
    options: dict[str, Any] = {"teacher": teacher, "base": base, "data": texts(), "device": "cpu", "budget": "6kB"}
    made = distill(schedule=replace(MINUTES, every=3), **options)
    assert (made.steps, len(plans)) == (9, 1)
    assert made.compressed.provenance.distilled is not None
    assert made.compressed.provenance.distilled.steps == 9
    with pytest.raises(UsageError, match="ranks that grow take updates"):
        distill(schedule=MINUTES, allocate="increlora", **options)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("inf"), float("nan")])
def test_minutes_are_a_time(minutes: float) -> None:
    with pytest.raises(UsageError, match="the time of the run is"):
        Schedule(minutes=minutes)
    with pytest.raises(UsageError, match="minutes and seconds are both given"):
        Schedule(minutes=1.0, seconds=5.0)
