"""The options of `vblora`, and what is settled of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, isfinite

from adaptzip.errors import FormatError, UsageError

_MOST = 2**20
"""Largest bank, longest vector and highest rank in a file."""
_MOST_MIXED = 8


@dataclass(frozen=True)
class Config:
    """Options of `vblora`; what is None is chosen for the budget.

    Attributes:
        rank: rows of A and B of each module; with `uniform` off, the most that a module may have.
        length: b, numbers in a vector of the bank.
        vectors: h, vectors in the bank.
        top_k: k, vectors in a mixture; 1 makes the bank a plain codebook.
        levels: weights of a mixture are multiples of 1 / levels, a power of two.
        memory: GiB that PEFT may need for the dense logits of an exported adapter.
        uniform: one rank for all modules, which PEFT needs; without it a budget goes further.
        floor: with `uniform` off, the least share of |dW|^2 for which a component is kept, per number of its two rows.
        scale: what the stored bank is multiplied with; a power of two, set by the fit.

    Raises:
        UsageError: if a value is out of range.
    """

    rank: int | None = None
    length: int | None = None
    vectors: int | None = None
    top_k: int | None = None
    levels: int = 64
    memory: float = 1.0
    uniform: bool = True
    floor: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("rank", _MOST), ("length", _MOST), ("vectors", _MOST), ("top_k", _MOST_MIXED)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise UsageError(f"{name} is {value}, expected 1 to {most}")
        if self.vectors is not None and self.top_k is not None and self.top_k > self.vectors:
            raise UsageError(f"top_k is {self.top_k}, more than the bank's {self.vectors} vectors")
        if not 2 <= self.levels <= 2**16 or self.levels & (self.levels - 1):
            raise UsageError(f"levels is {self.levels}, expected a power of two from 2 to 65536")
        if not (isfinite(self.memory) and self.memory > 0):
            raise UsageError(f"memory is {self.memory}, expected a positive number of GiB")
        if self.floor is not None and not 0 <= self.floor < 1:
            raise UsageError(f"floor is {self.floor}, expected a share from 0 to 1")
        if not (isfinite(self.scale) and self.scale > 0 and frexp(self.scale)[0] == 0.5):
            raise UsageError(f"scale is {self.scale}, expected a power of two")


@dataclass(frozen=True)
class Choices:
    """A config whose choices are all made."""

    rank: int
    length: int
    vectors: int
    top_k: int


def choices_of(config: Config) -> Choices:
    """The choices that a config holds.

    Raises:
        FormatError: if one is open.
    """
    if config.rank is None or config.length is None or config.vectors is None or config.top_k is None:
        raise FormatError("metadata: 'config' of vblora lacks rank, length, vectors or top_k")
    return Choices(config.rank, config.length, config.vectors, config.top_k)
