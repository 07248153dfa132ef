"""Options of `unilora`."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, isfinite

from adaptzip.errors import FormatError, UsageError

_MOST = 4096


@dataclass(frozen=True)
class Config:
    """Options of `unilora`; None leaves the choice to the budget.

    Attributes:
        numbers: in the vector. What is more than the entries of all B is left out.
        rank: of modules without a frame.
        seed: of places and signs; 0 takes the seed of the fit.
        scale: what a number is multiplied with where it stands, a power of two; the fit's choice.
    """

    numbers: int | None = None
    rank: int = 4
    seed: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.numbers is not None and self.numbers < 1:
            raise UsageError(f"numbers is {self.numbers}, expected at least 1")
        if not 1 <= self.rank <= _MOST:
            raise UsageError(f"rank is {self.rank}, expected 1 to {_MOST}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}, expected 0 to 2^63 - 1")
        if not (isfinite(self.scale) and self.scale > 0 and frexp(self.scale)[0] == 0.5):
            raise UsageError(f"scale is {self.scale}, expected a power of two")


def numbers_of(config: Config) -> int:
    """How many numbers there are.

    Raises:
        FormatError: if that is open.
    """
    if config.numbers is None:
        raise FormatError("metadata: 'config' of unilora lacks numbers")
    return config.numbers
