"""How much an error in each module matters, where calibration data says so."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

_RIDGE = 1e-6


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """One module's weight in the error that is minimised: weight * tr((dW - dW') M (dW - dW')^T).

    Attributes:
        weight: what the module's squared error is multiplied by.
        moments: M (in, in), second moments E[x x^T] of the module's inputs scaled to trace `in`, float32; None for
            the identity.
    """

    weight: float = 1.0
    moments: Tensor | None = None

    @property
    def gain(self) -> float:
        """What the update is multiplied by so that its plain error is the weighted one."""
        return sqrt(self.weight)


def root(moments: Tensor) -> Tensor:
    """The symmetric square root of moments (in, in), float32, with a ridge of a millionth of their mean.

    The ridge keeps directions that the texts never used at a small weight, so that nothing there is free to grow.
    """
    values, vectors = torch.linalg.eigh(moments.double())
    values = values.clamp(min=0) + _RIDGE * values.mean()
    found: Tensor = ((vectors * values.sqrt()) @ vectors.T).float()
    return found
