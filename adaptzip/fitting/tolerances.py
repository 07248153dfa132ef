"""How near to its limit a search for the step comes, by the effort that may be spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from adaptzip.core.effort import Effort
from adaptzip.fitting.rate import TOLERANCE


@dataclass(frozen=True)
class Tolerances:
    """How near to its limit an outcome ends a search, as shares of the limit.

    Attributes:
        error, bytes: for either limit.
        coarse: where ranks follow the step yet.
        miss: an outcome that stays this far below the limit is aimed at again.
    """

    error: float
    bytes: float
    coarse: float
    miss: float

    def where(self, slope: float) -> Tolerances:
        """These tolerances where a share of the error is worth `slope` times as large a share of the bytes."""
        return replace(self, error=self.error / slope, coarse=self.coarse / slope, miss=self.miss / slope)


TOLERANCES: Mapping[Effort, Tolerances] = MappingProxyType(
    {
        "fast": Tolerances(error=0.012, bytes=0.02, coarse=0.03, miss=0.02),
        "default": Tolerances(error=TOLERANCE, bytes=0.006, coarse=0.03, miss=0.009),
        "best": Tolerances(error=0.0002, bytes=0.001, coarse=0.03, miss=0.002),
    }
)
