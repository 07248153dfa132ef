"""The training loop: match the teacher, at the end through the file's own quantiser, and keep the best file seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from math import inf, isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from adaptzip.distillation.lessons import order
from adaptzip.distillation.losses import Counts, loss
from adaptzip.distillation.machines import Machines, within_memory
from adaptzip.distillation.problem import Moment, Problem, State
from adaptzip.distillation.quantising import Written, as_decoded
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.selecting import hardened, relaxed, soft_places, softened
from adaptzip.distillation.tensors import Place, Tensors, factors_of, trained_of, trained_places
from adaptzip.errors import CheckFailedError
from adaptzip.models.live.rows import alike

_BETAS = (0.9, 0.99)
_SMOOTH = 0.95
"""How much of the running loss and agreement is kept from step to step."""


def first_state(problem: Problem, guess: float, given: Written | None = None) -> State:
    """The state before the first step: the best file is that of the fit, or the one given.

    Args:
        guess: the step of the file, about.
        given: what a file that is trained further holds, where it keeps to the budget.

    Raises:
        CheckFailedError: if no file keeps to the budget, or the teacher puts out numbers that are not finite.
    """
    written = given or problem.fill(problem.tensors, guess)
    state = State(0, trained_of(problem.coder, problem.tensors), {}, written.step)
    _consider(problem, state, written)
    if state.best_distance == inf:
        raise CheckFailedError(
            "the teacher's outputs on the held-out texts are not all finite, so that nothing can be held against them",
            hint="is this the base model that the adapter was trained on?",
        )
    if problem.nothing > 0:
        state.far = min(1.0, sqrt(state.best_distance / problem.nothing))
    state.parameters |= softened(problem.coder, problem.tensors)
    return state


def concluded(problem: Problem, state: State) -> State:
    """A state that was left before its end, with the file of its last parameters considered as well."""
    found = replace(state, parameters=hardened(problem.coder, state.parameters))
    try:
        written = problem.fill(problem.tensors.replaced(found.parameters), state.quantiser)
    except CheckFailedError:
        return state
    _consider(problem, found, written)
    return found


def train(
    problem: Problem,
    schedule: Schedule,
    state: State,
    machines: Machines,
    *,
    save: Callable[[State], None],
    report: Callable[[Moment], None],
) -> State:
    """Train until the schedule ends; `state` moves along and is valid whenever an exception leaves this.

    Args:
        save: called between steps with a state that may be resumed from.
        report: called after every step.

    Raises:
        CheckFailedError: if the loss is no number, what is trained grows beyond the format, or memory runs out.
    """
    machines.align(state.parameters.values())
    run = Training(problem, schedule, state, machines)
    indices = order([len(text.ids) for text in problem.teacher.texts], schedule.batch, schedule.seed)
    for _ in range(state.step):
        next(indices)
    began, before = time.monotonic(), state.seconds
    while state.step < schedule.steps:
        done = schedule.done(state.step, state.seconds)
        run.advance(next(indices))
        state.seconds = machines.agree(before + time.monotonic() - began)
        over = schedule.seconds is not None and state.seconds >= schedule.seconds
        if schedule.tries(state.step, state.seconds, done) or over:
            run.try_file()
        report(run.moment())
        save(state)
        if over:
            break
    return state


class Training:
    """One run's parameters and optimiser, tied to its state.

    Attributes:
        trained: the tensors that are trained, by place; after an update with their gradients.
    """

    def __init__(self, problem: Problem, schedule: Schedule, state: State, machines: Machines) -> None:
        self.problem, self.schedule, self.state, self.machines = problem, schedule, state, machines
        self.soft = soft_places(problem.coder, state.parameters)
        real = trained_places(problem.coder, problem.tensors)
        self.trained = {place: state.parameters[place].requires_grad_() for place in [*real, *self.soft]}
        self.rate = problem.scale * (_rate(problem, state.far) if schedule.rate is None else schedule.rate)
        groups = self._groups(real)
        if self.soft:
            rate = problem.coder.method.soft_rate
            groups.append({"params": [self.trained[place] for place in self.soft], "highest": rate})
        self.adam = torch.optim.Adam(groups, lr=self.rate, betas=_BETAS)
        if state.optimizer:
            self.adam.load_state_dict(state.optimizer)

    def _groups(self, places: list[Place]) -> list[dict[str, Any]]:
        """What Adam trains, by learning rate."""
        coder = self.problem.coder
        found: dict[float, list[Tensor]] = {}
        for name, role in places:
            relative = coder.method.relative_rate(role, coder.sites[name]) if name else 1.0
            found.setdefault(relative, []).append(self.trained[name, role])
        return [{"params": tensors, "highest": self.rate * relative} for relative, tensors in found.items()]

    @property
    def due(self) -> bool:
        """Whether the quantiser belongs into the loop by now."""
        return self.state.quantised or self.schedule.is_quantised(self.state.step, self.state.seconds)

    def advance(self, indices: list[int]) -> None:
        """One update."""
        schedule, state = self.schedule, self.state
        if self.due and not state.quantised:
            self._freeze_selection()
            # Where nothing fits just now, the step of before will do until something does.
            with suppress(CheckFailedError):
                state.quantiser = self.problem.fill(self.tensors(self.trained), state.quantiser).step
            state.quantised = True
        for group in self.adam.param_groups:
            group["lr"] = group["highest"] * schedule.share_of_rate(state.step, state.seconds)
        self.adam.zero_grad(set_to_none=True)
        own = self.machines.share(indices) or indices[:1]
        whole = self.problem.teacher.counts(own)
        size = schedule.micro or len(own)
        # What the quantiser makes of the tensors gets their gradient: a straight-through estimator.
        values = self._decoded() if state.quantised else self.trained
        leaves = {place: value.detach().clone().requires_grad_() for place, value in values.items()}
        total = agreed = 0.0
        for first in range(0, len(own), size):
            value, agreement = self._learn(own[first : first + size], leaves, whole)
            total, agreed = total + value, agreed + agreement
        for place, parameter in self.trained.items():
            parameter.grad = leaves[place].grad
        self.machines.average(parameter.grad for parameter in self.trained.values())
        self._check_finite(total)
        self.adam.step()
        state.step += 1
        state.optimizer = self.adam.state_dict()
        weight = _SMOOTH if state.step > 1 else 0.0
        state.loss = weight * state.loss + (1 - weight) * total
        state.agreement = weight * state.agreement + (1 - weight) * agreed

    def _freeze_selection(self) -> None:
        """From here on only real tensors are trained."""
        if not self.soft:
            return
        found = hardened(self.problem.coder, self.state.parameters)
        try:
            self.problem.fill(self.problem.tensors.replaced(found), self.state.quantiser)
        except CheckFailedError:
            # Whole numbers take more room the more they differ; where these take too much, the fit's are kept.
            soft = set(self.soft)
            found = {place: tensor for place, tensor in self.state.parameters.items() if place not in soft}
        self.state.parameters = found
        for place in self.soft:
            self.adam.state.pop(self.trained.pop(place), None)
        self.soft = []
        del self.adam.param_groups[-1]
        self.state.optimizer = self.adam.state_dict()

    def _decoded(self) -> dict[Place, Tensor]:
        try:
            return as_decoded(self.trained, self.state.quantiser)
        except CheckFailedError:
            raise self._failed("the numbers have grown beyond what a file holds") from None

    def _failed(self, what: str) -> CheckFailedError:
        """Training went astray."""
        temperature = self.schedule.weights.temperature
        other = "" if temperature == 1 else f", or another `temperature=` than {temperature:g}"
        return CheckFailedError(f"step {self.state.step + 1}: {what}", hint=f"try a lower `rate=`{other}")

    def _check_finite(self, total: float) -> None:
        gradients = [parameter.grad for parameter in self.trained.values() if parameter.grad is not None]
        if not isfinite(total):
            what = f"the loss is {total}"
        elif not all(bool(gradient.isfinite().all()) for gradient in gradients):
            what = "the gradient of the loss is not finite"
        else:
            return
        raise self._failed(what)

    def _learn(self, indices: list[int], leaves: Mapping[Place, Tensor], whole: Counts) -> tuple[float, float]:
        """Add one part's gradients to the leaves; returns what it adds to the loss and to the share of equal decisions.

        Args:
            whole: of the batch.
        """
        problem, weights = self.problem, self.schedule.weights
        teacher = problem.teacher
        look = {"hidden": weights.hidden > 0, "modules": weights.modules > 0}
        with within_memory(len(indices)):
            batch = teacher.batch(indices)
            factors = factors_of(problem.coder, problem.gains, self.tensors(leaves))
            with self.machines.half():
                theirs = teacher.answer(indices, batch, **look)
                ours = problem.guest.look(batch, factors, **look)
            value = loss(teacher.loaded.kind, weights, theirs, ours, teacher.loaded.rows_labels(batch), whole)
            value.backward()  # type: ignore[no-untyped-call]
        same = alike(teacher.loaded.kind, theirs.rows, ours.rows.detach())
        return float(value.detach()), same / whole.rows

    def tensors(self, trained: Mapping[Place, Tensor]) -> Tensors:
        """The adapter's tensors with these in their places, and the selection as it stands."""
        return self.problem.tensors.replaced({**self.state.parameters, **relaxed(self.problem.coder, trained)})

    def try_file(self) -> None:
        """Once the quantiser is in the loop, fit its step to the budget, and see whether the file is the best so far.

        Where no step fits there is no file to try.
        """
        if not self.due:
            return
        self._freeze_selection()
        try:
            written = self.problem.fill(self.tensors(self.trained), self.state.quantiser)
        except CheckFailedError:
            return
        self.state.quantiser = written.step
        _consider(self.problem, self.state, written)

    def moment(self) -> Moment:
        state, schedule = self.state, self.schedule
        left = state.seconds / max(state.step, 1) * (schedule.steps - state.step)
        if schedule.seconds is not None:
            left = min(left, max(0.0, schedule.seconds - state.seconds))
        done = schedule.done(state.step, state.seconds)
        return Moment(state.step, schedule.steps, done, state.loss, state.agreement, left)


def _consider(problem: Problem, state: State, written: Written) -> None:
    found = problem.score(written.tensors)
    distance = found.distance
    if distance is not None and distance < state.best_distance:
        state.best = {place: tensor.detach().clone() for place, tensor in state.parameters.items()}
        state.best_quantiser, state.best_distance, state.best_step = written.step, distance, state.step


def _rate(problem: Problem, far: float) -> float:
    """The method's learning rate for a start so far from the teacher; distances are squares, and `far` is none."""
    method = problem.coder.method
    highest = method.training_rate if method.far_rate is None else method.far_rate
    return method.training_rate + far * (highest - method.training_rate)
