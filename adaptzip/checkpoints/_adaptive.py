"""What AdaLoRA and IncreLoRA share, whose ranks change in training: singular values between A and B, and the scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._parts import AGAIN, Parts, part_of
from adaptzip.checkpoints._state_dict import StateDict, alpha_of, weight_shapes
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError

_NO_RANK = 1e-5
"""What is added to the rank that the update is divided by, so that it is never 0."""


class AdaptiveRanks(StateDict):
    """A dialect of training scripts with A, E and B."""

    lacks = "a checkpoint whose ranks only the training knew"
    own = ".lora_"

    def factors(
        self, source: Checkpoint, raw: Mapping[str, Any], modules: Mapping[str, Parts], others: Mapping[str, str]
    ) -> dict[str, LoraFactors]:
        alpha, shapes = alpha_of(source, raw), weight_shapes(source, modules, others)
        return {name: self.module(source, name, keys, shapes[name], alpha) for name, keys in modules.items()}

    @abstractmethod
    def module(
        self, source: Checkpoint, name: str, keys: Parts, shape: tuple[int, ...] | None, alpha: float
    ) -> LoraFactors:
        """The factors of a module, whose weight has this shape where it is known; raises as `factors`."""


def scale_of(alpha: float, own: float, rank: float) -> float:
    """What the layers multiply B diag(E) A by.

    Args:
        alpha: lora_alpha; where it is not positive, `own` stands for it.
        own: the rank that the layer was made with.
        rank: that which they divide by.
    """
    return (alpha if alpha > 0 else own) / (rank + _NO_RANK)


def rank_number(source: Checkpoint, module: str, keys: Parts) -> float:
    """The `ranknum` of a module, by which its update is divided.

    Raises:
        CheckpointError: if it is none of at least 0.
    """
    found = part_of(source, module, keys, "ranknum")
    if found.numel() != 1 or float(found) < 0:
        told = found.reshape(-1)[:4].tolist()
        raise CheckpointError(f"{source.weights}: {keys['ranknum']} is {told}, expected one number", hint=AGAIN)
    return float(found)


def kept_ranks(A: Tensor, E: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B diag(E) (out, rank) float32, without the ranks whose E is 0, but for one where all are.

    E is folded into B in float64.
    """
    alive = E.reshape(-1) != 0
    alive[0] |= not bool(alive.any())
    return A[alive].contiguous(), (B[:, alive].double() * E.reshape(-1)[alive].double()).float()
