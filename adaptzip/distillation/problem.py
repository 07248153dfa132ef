"""What is trained, and where training stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

from torch import Tensor

from adaptzip.adz.coding.coders import Coder
from adaptzip.core.trainable import AnyTrainable
from adaptzip.distillation.lessons import Teacher
from adaptzip.distillation.quantising import Written, fill
from adaptzip.distillation.student import Guest
from adaptzip.distillation.tensors import Place, Tensors, factors_of
from adaptzip.fitting.fits import CodedAdapter
from adaptzip.models.live.running import Batch
from adaptzip.reports.scores import Score, score


@dataclass(frozen=True, eq=False)
class Problem:
    """What is trained, on what, within which size.

    Attributes:
        coder, gains: of the file.
        tensors: what training starts from.
        guest: the model, with what the file keeps of the teacher's extras.
        teacher: and the training texts.
        held_out: batches that are never trained on.
        answers: the teacher's rows for them.
        size_of: bytes of the whole file for blocks coded at a step.
        limit: most bytes of the whole file.
        scale: root mean square of the trained numbers if the teacher's energy were spread over them.
        nothing: distance of the base model from the teacher on the held-out texts.
    """

    coder: Coder[AnyTrainable]
    gains: Mapping[str, int]
    tensors: Tensors
    guest: Guest
    teacher: Teacher
    held_out: Sequence[Batch]
    answers: Sequence[Tensor]
    size_of: Callable[[float, CodedAdapter], int]
    limit: int
    scale: float
    nothing: float

    def score(self, tensors: Tensors) -> Score:
        """Tensors as they decode, on the held-out texts."""
        factors = factors_of(self.coder, self.gains, tensors)
        return score(self.guest.loaded, lambda batch: self.guest(batch, factors), self.held_out, self.answers)

    def fill(self, tensors: Tensors, guess: float) -> Written:
        return fill(self.coder, tensors, self.size_of, self.limit, guess)


@dataclass(eq=False)
class State:
    """Where training stands; all that a resumed run needs.

    Attributes:
        step: updates made.
        parameters: the trained tensors. While the selection trains, its soft tensors are among them, afterwards what
            they came to.
        optimizer: Adam's state, as torch has it.
        quantiser: the step of the file.
        quantised: whether the quantiser is in the loop.
        best: parameters of the best file so far, unquantised; empty before there is one.
        best_quantiser: its step.
        best_distance: its distance to the teacher on the held-out texts.
        best_step: when it was seen.
        far: how far from the teacher training starts, 0 to 1, which is as far as the base model.
        planned: updates and seconds of training, where the time of the whole run decided them.
        seconds: trained so far.
        loss, agreement: running means over batches.
    """

    step: int
    parameters: dict[Place, Tensor]
    optimizer: dict[str, Any]
    quantiser: float
    quantised: bool = False
    best: dict[Place, Tensor] = field(default_factory=dict)
    best_quantiser: float = 0.0
    best_distance: float = inf
    best_step: int = 0
    far: float = 1.0
    planned: tuple[int, float] | None = None
    seconds: float = 0.0
    loss: float = 0.0
    agreement: float = 0.0


@dataclass(frozen=True)
class Moment:
    """What a progress bar shows.

    Attributes:
        done: share of the run that is over.
    """

    step: int
    steps: int
    done: float
    loss: float
    agreement: float
    seconds_left: float


def even_scale(energy: float, numbers: int) -> float:
    """Root mean square of `numbers` numbers that share `energy`."""
    return sqrt(max(energy, 1e-30) / max(numbers, 1))
