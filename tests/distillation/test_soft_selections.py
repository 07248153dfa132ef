"""Training a selection: what is trained when, and what a file gets of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adaptzip import methods
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.distillation import selecting
from adaptzip.distillation.distilling import finish
from adaptzip.distillation.loop import first_state, train
from adaptzip.distillation.preparing import DataOptions, Setup, prepare
from adaptzip.distillation.problem import State
from adaptzip.distillation.selecting import hardened, relaxed, soft_places, softened
from adaptzip.distillation.trainable import as_trainable
from adaptzip.errors import AdaptzipWarning
from adaptzip.fitting.requests import Request
from adaptzip.models.live.batches import Example
from tests.cases import tiny_peft
from tests.cases.teachers import SHORT, teacher_of, texts, unlabelled

SELECTING = [name for name in methods.fittable() if as_trainable(methods.load(name)).soft_roles]


def setup_of(base: Path, teacher: Adapter, method: str, **options: Any) -> Setup:
    data: tuple[Example, ...] = texts() if teacher.extras else unlabelled()
    request = Request(method, Budget.parse("1500"), base=base, device="cpu", options=options)
    return prepare(None, teacher=teacher, base=base, data=data, request=request, schedule=SHORT, options=DataOptions())


def run(setup: Setup, state: State, stop: int | None = None) -> State:
    def save(now: State) -> None:
        if now.step == stop:
            raise KeyboardInterrupt

    train(setup.problem, setup.schedule, state, setup.machines, save=save, report=lambda _: None)
    return state


@pytest.fixture
def causal(tmp_path: Path) -> tuple[Path, Adapter]:
    return teacher_of(tiny_peft.llama, tmp_path, "q_proj", "down_proj")


@pytest.mark.parametrize("method", SELECTING)
@pytest.mark.parametrize("top_k", [1, 2])
def test_a_selection_trains_and_is_then_frozen(
    causal: tuple[Path, Adapter], method: str, top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So fast that a few steps change what is selected.
    monkeypatch.setattr(type(methods.load_fittable(method)), "soft_rate", 0.5)
    setup = setup_of(*causal, method, top_k=top_k, vectors=12, length=8)
    problem = setup.problem
    state = first_state(problem, setup.beginning.step)
    places = soft_places(problem.coder, state.parameters)
    assert {place[0] for place in places} == set(problem.tensors.modules)
    before = {place: state.parameters[place].detach().clone() for place in places}
    fit = dict(problem.tensors.items())
    for place, tensor in hardened(problem.coder, state.parameters).items():
        if place[1] not in problem.coder.method.shared_roles:
            # Vectors of equal shares come in any order.
            torch.testing.assert_close(tensor.sort(-1).values, fit[place].sort(-1).values, atol=0, rtol=0)
    with pytest.raises(KeyboardInterrupt):
        run(setup, state, SHORT.first_quantised - 1)
    assert any(not torch.equal(state.parameters[place], before[place]) for place in places)
    run(setup, state)
    assert not soft_places(problem.coder, state.parameters)
    whole = [place for place, tensor in state.parameters.items() if not tensor.requires_grad]
    assert any(not torch.equal(state.parameters[place], fit[place]) for place in whole)
    made = finish(setup, state)
    assert made.rows["distilled"].kl is not None


@pytest.mark.parametrize("method", SELECTING)
def test_soft_tensors_that_take_too_much_leave_the_selection(
    causal: tuple[Path, Adapter], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = setup_of(*causal, method)
    monkeypatch.setattr(selecting, "MOST_BYTES", 1000)
    with pytest.warns(AdaptzipWarning, match="it stays as it was fitted"):
        assert not softened(setup.problem.coder, setup.problem.tensors)


def test_methods_without_a_selection_have_nothing_soft(causal: tuple[Path, Adapter]) -> None:
    problem = setup_of(*causal, methods.REFERENCE).problem
    state = first_state(problem, 0.1)
    assert not softened(problem.coder, problem.tensors)
    assert relaxed(problem.coder, state.parameters) == state.parameters
