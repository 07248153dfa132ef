"""Weights that are stored numbers times scales, less zero points: integers or eight-bit floats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.models.dequantising.grids import Grid
from adaptzip.models.dequantising.source import Source

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True, eq=False)
class Scaled:
    """A weight whose numbers are stored one by one.

    Attributes:
        source: the model's tensors.
        name: the stored numbers.
        grid: how the scales lie over them.
        scale: the stored scales.
        zero: the stored zero points; None for none.
        arithmetic: the dtype in which the product is taken and rounded.
    """

    source: Source
    name: str
    grid: Grid
    scale: str
    zero: str | None = None
    arithmetic: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.source.stored(self.name).shape)

    def rows(self, first: int, last: int) -> Tensor:
        numbers = self.source.part(self.name, (first, last)).to(self.arithmetic)
        if self.zero is not None:
            zeros = self.grid.read(self.source, self.zero, first, last).to(self.arithmetic)
            numbers = numbers - self.grid.spread(zeros, first, last)
        return self.decoded(numbers, self.grid.read(self.source, self.scale, first, last), first, last)

    def decoded(self, numbers: Tensor, scales: Tensor, first: int, last: int) -> Tensor:
        """The weight's rows, float32, of stored numbers and the scales of these rows."""
        spread = self.grid.spread(scales.to(self.arithmetic), first, last)
        return (numbers.to(self.arithmetic) * spread).to(torch.float32)


def scales_for(form: Scaled, largest: Tensor) -> Tensor:
    """The scales by which the largest numbers just fit into eight-bit floats, in the dtype in which they are stored.

    Args:
        form: of eight-bit floats with scales and no zero points.
        largest: the largest magnitude under each scale.
    """
    kept = form.source.stored(form.scale).dtype
    most = torch.finfo(form.source.stored(form.name).dtype).max
    scales = torch.where(largest > 0, largest / most, torch.ones_like(largest)).to(kept)
    return torch.where(scales > 0, scales, torch.finfo(kept).tiny)


def encoded(form: Scaled, weight: Tensor, scales: Tensor) -> Tensor:
    """Some rows of a weight as the eight-bit floats of a form.

    Args:
        form: how they are stored.
        weight: float32, rows from the first of a scale's.
        scales: theirs, as `scales_for` makes them.
    """
    stored = form.source.stored(form.name).dtype
    # A scale that was rounded down would let numbers out of range.
    most = torch.finfo(stored).max
    return (weight / form.grid.spread(scales.to(torch.float32), 0, weight.shape[0])).clamp_(-most, most).to(stored)
