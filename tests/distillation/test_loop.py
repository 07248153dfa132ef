"""The training loop: batches in parts, stops and resumptions, and what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptzip import methods
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.distillation import loop
from adaptzip.distillation.loop import Training, concluded, first_state, train
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.machines import within_memory
from adaptzip.distillation.preparing import DataOptions, Setup, prepare
from adaptzip.distillation.problem import Problem, State
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.student import Guest
from adaptzip.distillation.trainable import as_trainable
from adaptzip.errors import CheckFailedError, RefusedError, UsageError
from adaptzip.fitting.requests import Request
from adaptzip.models.live.batches import Example
from tests.cases import tiny_peft
from tests.cases.teachers import SHORT, classifier, teacher_of, texts, unlabelled


def setup_of(base: Path, teacher: Adapter, schedule: Schedule, **options: Any) -> Setup:
    given: dict[str, Any] = {"to": methods.REFERENCE, "budget": "700", "base": base, "device": "cpu", **options}
    given["budget"] = Budget.parse(given["budget"])
    data: tuple[Example, ...] = texts() if teacher.extras else unlabelled()
    return prepare(
        None, teacher=teacher, base=base, data=data, request=Request(**given), schedule=schedule, options=DataOptions()
    )


def run(setup: Setup, state: State | None = None, *, stop: int | None = None) -> State:
    """Train to the end, or until an interruption after `stop` updates."""
    state = state or first_state(setup.problem, setup.beginning.step)

    def save(now: State) -> None:
        if now.step == stop:
            raise KeyboardInterrupt

    train(setup.problem, setup.schedule, state, setup.machines, save=save, report=lambda _: None)
    return state


def numbers(state: State) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in state.parameters.values()]


@pytest.fixture
def causal(tmp_path: Path) -> tuple[Path, Adapter]:
    return teacher_of(tiny_peft.llama, tmp_path, "q_proj", "down_proj")


@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(labels=0.5, temperature=2.0)])
def test_a_batch_in_parts_is_the_batch(causal: tuple[Path, Adapter], weights: LossWeights) -> None:
    """Texts have different lengths, so that parts have different numbers of rows; the last batch is a small one."""
    found = []
    for micro in (None, 3):
        schedule = Schedule(steps=5, batch=8, every=5, micro=micro, quantised=0.0, weights=weights)
        setup = setup_of(*causal, schedule)
        lengths = [len(text.ids) for text in setup.problem.teacher.texts]
        assert len(lengths) % 8 != 0
        assert len(set(lengths)) > 1
        found.append((numbers(run(setup)), dict(setup.problem.tensors.items())))
    (whole, start), (parts, _) = found
    moved = max(float((a - start[place]).abs().max()) for a, place in zip(whole, start, strict=True))
    apart = max(float((a - b).abs().max()) for a, b in zip(whole, parts, strict=True))
    assert moved > 1e-3
    assert apart < 0.02 * moved


def test_training_that_was_interrupted_goes_on_as_if_it_had_not_been(causal: tuple[Path, Adapter]) -> None:
    expected = run(setup_of(*causal, SHORT))
    for stop in (3, SHORT.first_quantised):
        setup = setup_of(*causal, SHORT)
        state = first_state(setup.problem, setup.beginning.step)
        with pytest.raises(KeyboardInterrupt):
            run(setup, state, stop=stop)
        assert state.step == stop
        again = setup_of(*causal, SHORT)
        state = replace(state, parameters={place: t.detach().clone() for place, t in state.parameters.items()})
        run(again, state)
        assert all(torch.equal(a, b) for a, b in zip(numbers(state), numbers(expected), strict=True))
        assert (state.best_distance, state.best_step) == (expected.best_distance, expected.best_step)
        assert state.best_quantiser == expected.best_quantiser
        assert all(torch.equal(expected.best[place], tensor) for place, tensor in state.best.items())


def test_a_start_that_is_near_is_trained_slowly(causal: tuple[Path, Adapter]) -> None:
    """The more the fit keeps, the lower the rate, between the method's two; a rate that was given is taken."""
    method = as_trainable(methods.load(methods.REFERENCE))
    low, high = method.training_rate, method.far_rate
    assert high is not None
    rates = []
    for budget in ("4kB", "900B"):
        setup = setup_of(*causal, SHORT, budget=budget)
        state = first_state(setup.problem, setup.beginning.step)
        whole = setup.rows["none"].distance
        assert whole
        assert state.far == pytest.approx(min(1.0, (state.best_distance / whole) ** 0.5))
        rates.append(Training(setup.problem, SHORT, state, setup.machines).rate / setup.problem.scale)
        given = Training(setup.problem, replace(SHORT, rate=0.5), state, setup.machines)
        assert given.rate == 0.5 * setup.problem.scale
    assert low < rates[0] < rates[1] <= high


def test_training_that_is_cut_short_counts(causal: tuple[Path, Adapter]) -> None:
    """Before the quantiser is in the loop nothing but the fit was tried."""
    setup = setup_of(*causal, replace(SHORT, steps=30, quantised=0.1), budget="300")
    state = first_state(setup.problem, setup.beginning.step)
    fitted = state.best_distance
    with pytest.raises(KeyboardInterrupt):
        run(setup, state, stop=20)
    assert (state.best_distance, state.best_step) == (fitted, 0)
    found = concluded(setup.problem, state)
    assert found.best_distance < fitted
    assert found.best_step == 20
    assert (state.best_distance, state.best_step) == (fitted, 0)


def test_time_ends_training(causal: tuple[Path, Adapter]) -> None:
    state = run(setup_of(*causal, replace(SHORT, steps=1000, seconds=1e-3)))
    assert state.step == 1


def test_a_time_limit_shortens_every_part(causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand steps there is time for twenty, the last half of them with the quantiser in the loop."""
    clock = count(0.0, 1.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    schedule = replace(SHORT, steps=1000, seconds=20.0, quantised=0.5)
    setup = setup_of(*causal, schedule, budget="300")
    state = first_state(setup.problem, setup.beginning.step)
    seen: dict[int, bool] = {}

    def save(now: State) -> None:
        seen.setdefault(now.step, now.quantised)

    train(
        setup.problem, schedule, state, setup.machines,
        save=save, report=lambda _: None,
    )  # fmt: skip
    assert [step for step, quantised in seen.items() if quantised] == list(range(11, 21))
    assert state.step == 20
    assert state.best_step > 10
    assert schedule.share_of_rate(19, 19.0) == pytest.approx(0.01, abs=0.01)


def test_a_run_under_a_time_limit_goes_on_as_if_it_had_not_been_stopped(
    causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(SHORT, steps=1000, seconds=20.0, quantised=0.5)

    def trained(*stops: int) -> State:
        setup = setup_of(*causal, schedule, budget="300")
        state = first_state(setup.problem, setup.beginning.step)
        for stop in (*stops, None):
            # Each update takes a second, whenever training was begun.
            clock = count(0.0, 1.0)
            monkeypatch.setattr(time, "monotonic", clock.__next__)
            state = replace(state, parameters={place: t.detach().clone() for place, t in state.parameters.items()})
            try:
                run(setup, state, stop=stop)
            except KeyboardInterrupt:
                assert state.step == stop
        return state

    expected = trained()
    for stops in ((4,), (10, 11), (15,)):
        state = trained(*stops)
        assert (state.step, state.quantised, state.best_step) == (20, True, expected.best_step)
        assert all(torch.equal(a, b) for a, b in zip(numbers(state), numbers(expected), strict=True))


def test_more_time_keeps_the_quantiser_in_the_loop(
    causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = setup_of(*causal, replace(SHORT, steps=40, every=1, seconds=20.0, quantised=0.5), budget="300")
    state = first_state(setup.problem, setup.beginning.step)
    clock = count(0.0, 1.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt):
        run(setup, state, stop=12)
    assert state.quantised
    tried: list[int] = []
    found = loop._consider

    def consider(problem: Problem, state: State, *rest: Any) -> Any:
        tried.append(state.step)
        return found(problem, state, *rest)

    monkeypatch.setattr(loop, "_consider", consider)
    longer = replace(setup, schedule=replace(setup.schedule, seconds=2000.0))
    with pytest.raises(KeyboardInterrupt):
        run(longer, state, stop=15)
    assert tried == [13, 14, 15]


def test_a_file_that_fits_nothing_is_not_tried(causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    """The best file of before is kept, and training goes on."""
    setup = setup_of(*causal, SHORT)
    state = first_state(setup.problem, setup.beginning.step)

    def refuse(*_: object) -> None:
        raise CheckFailedError("no step was found")

    monkeypatch.setattr(Problem, "fill", refuse)
    run(setup, state)
    assert (state.step, state.best_step) == (SHORT.steps, 0)


def test_other_losses_train(causal: tuple[Path, Adapter]) -> None:
    state = run(setup_of(*causal, replace(SHORT, weights=LossWeights(kl=0.0, hidden=1.0, modules=1.0)), budget="300"))
    assert state.best_step > 0


def broken(problem: Problem, monkeypatch: pytest.MonkeyPatch, at: int, what: Any) -> None:
    """From its call number `at` on, the model gives other rows to training."""
    calls = 0
    look = Guest.look

    def changed(self: Guest, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < at:
            return look(self, *args, **options)
        return what(look(self, *args, **options))

    monkeypatch.setattr(Guest, "look", changed)


def test_a_loss_that_is_no_number(causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(*causal, SHORT)
    state = first_state(setup.problem, setup.beginning.step)
    broken(setup.problem, monkeypatch, 3, lambda seen: replace(seen, rows=seen.rows * float("nan")))
    with pytest.raises(CheckFailedError, match=r"^step 3: the loss is nan$") as caught:
        run(setup, state)
    assert caught.value.hint == "try a lower `rate=`"
    assert state.step == 2
    assert all(bool(tensor.isfinite().all()) for tensor in state.parameters.values())


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        ({"rate": 1e30, "quantised": 0.9}, "the numbers have grown beyond what a file holds", ""),
        ({"weights": LossWeights(temperature=1e30)}, "the loss is nan", ", or another `temperature=` than 1e+30"),
    ],
)
def test_what_goes_astray(causal: tuple[Path, Adapter], options: dict[str, Any], what: str, hint: str) -> None:
    with pytest.raises(CheckFailedError, match=rf"^step \d: {what}$") as caught:
        run(setup_of(*causal, replace(SHORT, **options)))
    assert caught.value.hint == f"try a lower `rate=`{hint}"


def test_a_gradient_that_is_no_number(causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(*causal, SHORT)
    state = first_state(setup.problem, setup.beginning.step)
    spoiled: Callable[[Tensor], Tensor] = _Spoiled.apply
    broken(setup.problem, monkeypatch, 2, lambda seen: replace(seen, rows=spoiled(seen.rows)))
    with pytest.raises(CheckFailedError, match=r"^step 2: the gradient of the loss is not finite$"):
        run(setup, state)
    assert all(bool(tensor.isfinite().all()) for tensor in state.parameters.values())


class _Spoiled(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


@pytest.mark.parametrize("kind", ["processor", "cuda"])
def test_memory_that_runs_out(causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    setup = setup_of(*causal, replace(SHORT, micro=6))

    def full(seen: Any) -> Any:
        if kind == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.empty(10**16)

    broken(setup.problem, monkeypatch, 1, full)
    with pytest.raises(CheckFailedError, match=r"^out of memory with 6 texts at once$") as caught:
        run(setup)
    assert caught.value.hint == "try `micro=3`, or a smaller `max_tokens=`"


def test_one_text_at_once_is_not_to_be_fewer() -> None:
    with pytest.raises(CheckFailedError, match="out of memory with 1 texts at once") as caught, within_memory(1):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert caught.value.hint == "try a smaller `max_tokens=`"


def test_other_errors_are_not_taken_for_it(causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(*causal, SHORT)

    def fail(seen: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    broken(setup.problem, monkeypatch, 1, fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(setup)


def test_a_teacher_of_no_numbers_is_refused(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path)
    extras = {key: torch.full_like(value, torch.nan) for key, value in teacher.extras.items()}
    with pytest.raises(RefusedError, match="are not finite, first in layer classifier"):
        setup_of(base, replace(teacher, extras=extras), SHORT, budget="400")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"every": 0}, "every is 0"),
        ({"micro": 0}, "micro is 0"),
        ({"rate": 0.0}, "rate is 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"quantised": 1.5}, "the quantised share is 1.5"),
        ({"seconds": 0.0}, "the time allowed is 0 s"),
    ],
)
def test_schedules_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule(**options)
