"""How far numbers are from those expected: in units of the last place, and as a share of the change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.core.comparing import same_bits


@dataclass(frozen=True)
class Tally:
    """What comparing a tensor, or some rows of it, found.

    Attributes:
        numbers: how many there are.
        differing: how many are not the expected ones bit for bit.
        ulps: the largest difference in units of the last place, infinite where one is no finite number.
        place: where that is, as indices; None where nothing differs.
        error: sum of the squared differences from what was expected.
        change: sum of the squares of what was expected less the base.
        along: sum of the products of both.
    """

    numbers: int = 0
    differing: int = 0
    ulps: float = 0.0
    place: tuple[int, ...] | None = None
    error: float = 0.0
    change: float = 0.0
    along: float = 0.0

    @property
    def relative_error(self) -> float | None:
        """The difference as a share of the expected change; None where nothing was to change."""
        return math.sqrt(self.error / self.change) if self.change else None

    @property
    def scale(self) -> float | None:
        """How often the change holds the expected one, by least squares."""
        return 1 + self.along / self.change if self.change else None

    def __add__(self, other: Tally) -> Tally:
        worst = max(self, other, key=lambda tally: (tally.place is not None, tally.ulps))
        return Tally(
            self.numbers + other.numbers,
            self.differing + other.differing,
            worst.ulps,
            worst.place,
            self.error + other.error,
            self.change + other.change,
            self.along + other.along,
        )


def compare(base: Tensor | None, expected: Tensor, found: Tensor, first: int = 0) -> Tally:
    """Compare some rows of one dtype.

    Args:
        base: what they were made of, in any dtype; None where that has another shape.
        expected, found: what they should be and what they are.
        first: the number of the first row.
    """
    numbers = found.numel()
    change = 0.0 if base is None else _change(base, expected)
    if same_bits(expected, found):
        return Tally(numbers, change=change)
    at = _different(expected, found).nonzero()[:, 0]
    ours, theirs = (_wide(tensor.reshape(-1)[at]) for tensor in (expected, found))
    before = ours if base is None else _wide(base.reshape(-1)[at])
    steps = ((theirs - ours) / _last_place(torch.stack([before, ours, theirs]), found.dtype)).abs()
    steps = steps.nan_to_num(math.inf, math.inf)
    worst = int(steps.argmax())
    place = [int(i) for i in torch.unravel_index(at[worst], found.shape)]
    if place:
        place[0] += first
    return Tally(
        numbers,
        len(at),
        float(steps[worst]),
        tuple(place),
        float(_squares(theirs - ours)),
        change,
        0.0 if base is None else float(torch.sum((theirs - ours) * (ours - before), dtype=torch.float64)),
    )


def _change(base: Tensor, expected: Tensor) -> float:
    kind = torch.promote_types(expected.dtype, torch.float32)
    change = expected.to(kind) - base.to(kind)
    return float(torch.linalg.vector_norm(change)) ** 2


def _different(one: Tensor, other: Tensor) -> Tensor:
    """For each number, in a row, whether the bits differ."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = kinds[one.dtype.itemsize]
    return one.contiguous().reshape(-1).view(kind) != other.contiguous().reshape(-1).view(kind)


def _last_place(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit of the last place, in a dtype, of the largest of several numbers; one where it has no fractions.

    A sum that cancels is no more precise than what it was made of, so that the base's number counts as well.
    """
    if not dtype.is_floating_point:
        return torch.ones_like(values[0])
    info = torch.finfo(dtype)
    _, exponents = torch.frexp(values.abs().amax(0))
    unit = torch.ldexp(torch.full_like(values[0], info.eps / 2), exponents)
    return unit.clamp_min(info.smallest_normal * info.eps)


def _wide(tensor: Tensor) -> Tensor:
    """In a dtype in which differences are exact enough, and half as much to move for the narrow ones."""
    return tensor.to(torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else torch.float64)


def _squares(tensor: Tensor) -> Tensor:
    return torch.sum(tensor * tensor, dtype=torch.float64)
