"""Growing ranks while training, where they are of most use (IncreLoRA, Zhang et al. 2023, arXiv 2308.12043).

Modules begin at about half the rank that a fit gives them. They are trained, and in rounds those of the highest score
get one unit of rank more, which begins neutral: the update stays what it was. The score is the paper's, the moving
average of the sensitivity times that of its uncertainty, with the sensitivity |w dL/dw| taken over a module's stored
numbers instead of its whole update, so that no gradient of a weight's size is needed. Growth ends at as many numbers as
the fit stores: the step that filled the budget then has to be no coarser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt

from torch import Tensor

from adaptzip.adz.coding.coders import Coder
from adaptzip.core.trainable import AnyTrainable
from adaptzip.distillation.lessons import order
from adaptzip.distillation.loop import Training
from adaptzip.distillation.machines import Machines
from adaptzip.distillation.problem import Problem, State
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.tensors import Place, Tensors, start, trained_of
from adaptzip.distillation.trainable import as_trainable
from adaptzip.errors import UsageError
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.requests import Request
from adaptzip.methods import load

_BETA = 0.85
"""How much of the moving averages is kept from step to step, as in the paper."""
_SHARE = 0.25
"""Steps of growth, as a share of those of the training that follows."""
_ROUNDS = 12
_MORE = 0.5
"""How much larger than asked for a rank may become, where a method's options say it."""
GROWING = "increlora"
"""The allocation that growth is."""


@dataclass(frozen=True, eq=False)
class Growth:
    """From where to where ranks grow.

    Attributes:
        first: what growth starts from.
        full: every module at its largest rank, for what new units need to know.
        numbers: most numbers to store.
    """

    first: Tensors
    full: Tensors
    numbers: int


def room_to_grow(request: Request, most: int) -> Request:
    """The request of the fit that tells how many numbers there may be, with ranks as large as any may become.

    Args:
        most: the largest rank that every module can have.

    Raises:
        UsageError: if the method's ranks can't grow.
    """
    if not as_trainable(load(request.to)).grows:
        raise UsageError(
            f"the ranks of method {request.to!r} can't grow while it is trained", hint="leave `allocate=` out"
        )
    rank = request.options.get("rank")
    options = dict(request.options)
    if isinstance(rank, int):
        options["rank"] = max(rank, min(most, rank + max(1, round(_MORE * rank))))
    return replace(request, allocate=None, options=options)


def growth_of(fitted: FittedAdapter, ranks: Mapping[str, int], step: float) -> Growth:
    """Growth from about half of the ranks that a fit has, to as many numbers."""
    caps = {name: len(fitted.profiles[name].scores) for name in ranks}
    half = {name: max(1, rank // 2) for name, rank in ranks.items()}
    layouts = (fitted.method.layout(fitted.sites[name], rank, fitted.config) for name, rank in ranks.items())
    shared = sum(spec.numbers for spec in fitted.method.shared_layout(fitted.config))
    numbers = shared + sum(spec.numbers for layout in layouts for spec in layout)
    return Growth(start(fitted, half, step), start(fitted, caps, step), numbers)


@dataclass
class _Score:
    """Moving averages of a module's sensitivity and of its uncertainty."""

    average: float = 0.0
    uncertainty: float = 0.0

    def add(self, sensitivity: float) -> None:
        self.average = _BETA * self.average + (1 - _BETA) * sensitivity
        self.uncertainty = _BETA * self.uncertainty + (1 - _BETA) * abs(sensitivity - self.average)

    @property
    def value(self) -> float:
        return self.average * self.uncertainty


@dataclass(eq=False)
class _Grower:
    """Tensors that grow, and the scores of their modules."""

    coder: Coder[AnyTrainable]
    growth: Growth
    tensors: Tensors
    scores: dict[str, _Score] = field(default_factory=dict)

    def watch(self, trained: Mapping[Place, Tensor]) -> None:
        """Add one step's sensitivities."""
        found: dict[str, tuple[float, int]] = {}
        for (name, _), parameter in trained.items():
            if parameter.grad is not None:
                total, count = found.get(name, (0.0, 0))
                total += float((parameter.detach() * parameter.grad).abs().sum())
                found[name] = (total, count + parameter.numel())
        for name, (total, count) in found.items():
            self.scores.setdefault(name, _Score()).add(total / sqrt(count))

    def grow(self, numbers: int) -> None:
        """One unit for the modules of the highest scores in turn, until about `numbers` numbers are stored."""
        ranked = sorted(self.tensors.ranks, key=lambda name: -self.scores.get(name, _Score()).value)
        grew = True
        while grew and self.tensors.numbers < numbers:
            grew = False
            for name in ranked:
                if self.tensors.numbers >= numbers:
                    break
                grew = self._add(name) or grew

    def _add(self, name: str) -> bool:
        """Whether one more unit was left and is within the numbers allowed."""
        rank, site, method = self.tensors.ranks[name], self.coder.sites[name], self.coder.method
        if rank >= self.growth.full.ranks[name]:
            return False
        own = self.tensors.modules[name]
        new = method.grown(own, self.growth.full.modules[name], site, rank, self.coder.config)
        more = sum(t.numel() for t in new.values()) - sum(t.numel() for t in own.values())
        if self.tensors.numbers + more > self.growth.numbers:
            return False
        self.tensors = Tensors(
            self.tensors.shared, {**self.tensors.modules, name: new}, {**self.tensors.ranks, name: rank + 1}
        )
        return True


def grown(problem: Problem, growth: Growth, schedule: Schedule, machines: Machines, step: float) -> Problem:
    """The problem with ranks that grew while its tensors were trained; the same for the same seed.

    Args:
        schedule: of the training that follows; growth takes a quarter of its steps before it.
        step: of the fit.

    Raises:
        CheckFailedError: as `adaptzip.distillation.loop.train`.
    """
    grower = _Grower(problem.coder, growth, growth.first)
    least = growth.first.numbers
    steps = max(1, round(schedule.steps * _SHARE))
    rounds = min(_ROUNDS, steps)
    # The rate falls to half of its height, and the quantiser stays out.
    slow = replace(schedule, steps=2 * steps, quantised=0.0)
    indices = order([len(text.ids) for text in problem.teacher.texts], schedule.batch, schedule.seed)
    made = 0
    for number in range(1, rounds + 1):
        now = replace(problem, tensors=grower.tensors)
        # At the lower rate: what was trained between two additions is not to be lost again.
        state = State(made, trained_of(now.coder, now.tensors), {}, step, far=0.0)
        training = Training(now, slow, state, machines)
        while made < number * steps // rounds:
            training.advance(next(indices))
            grower.watch(training.trained)
            made += 1
        grower.tensors = grower.tensors.replaced({p: t.detach() for p, t in training.trained.items()})
        grower.grow(least + (growth.numbers - least) * number // rounds)
    return replace(problem, tensors=grower.tensors)
