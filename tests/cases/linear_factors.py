"""The factors of tensors in training, for methods whose update is B @ A."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.distillation.tensors import Tensors, factors_of


def linear_factors(coder: AnyCoder, gains: Mapping[str, int], tensors: Tensors) -> dict[str, tuple[Tensor, Tensor]]:
    """A (rank, in) and B (out, rank) of every module."""
    found = {}
    for name, update in factors_of(coder, gains, tensors).items():
        assert isinstance(update, tuple)
        found[name] = update
    return found
