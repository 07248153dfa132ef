"""How far floating-point numbers are from others, counted in numbers of their dtype between the two."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def steps_of(dtype: torch.dtype) -> torch.dtype:
    """The dtype of steps between numbers of a floating-point dtype: integers of as many bytes."""
    return _STEPS[dtype.itemsize]


def moved(tensor: Tensor, first: Tensor) -> Tensor:
    """Steps from `first` to `tensor`, both of one floating-point dtype and shape; modulo their range, and folded.

    Steps 0, -1, 1, -2 become 0, 1, 2, 3 and so on, so that small ones of either sign have high bytes of 0.
    """
    steps = _ordered(tensor) - _ordered(first)
    return (steps << 1) ^ (steps >> (8 * steps.itemsize - 1))


def moved_back(steps: Tensor, first: Tensor) -> Tensor:
    """Inverse of `moved`."""
    half = (steps >> 1) & ~_lowest(steps.dtype)
    return _unordered((half ^ -(steps & 1)) + _ordered(first), first.dtype)


def _lowest(dtype: torch.dtype) -> int:
    return torch.iinfo(dtype).min


def _ordered(tensor: Tensor) -> Tensor:
    """Integers in the order of the numbers; -0 comes just before 0."""
    bits = tensor.contiguous().view(steps_of(tensor.dtype))
    return torch.where(bits < 0, ~bits ^ _lowest(bits.dtype), bits)


def _unordered(order: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(order < 0, ~(order ^ _lowest(order.dtype)), order).view(dtype)
