"""Whether all numbers of a tensor are finite."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor of numbers holds neither NaN nor infinity."""
    # A finite sum proves that all terms are; only the rare other case needs a look at each number.
    return isfinite(float(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())
