"""How much an error in each module matters, where calibration data says so."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from torch import Tensor


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
