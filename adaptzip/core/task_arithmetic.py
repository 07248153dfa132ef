"""One tensor out of several of the same shape: weighted sums, of all numbers or of those that a rule keeps.

TIES: Yadav et al., 2023, section 4. DARE: Yu et al., 2023, section 3. The random numbers and the roundings are those of
PEFT's `add_weighted_adapter`, which takes what TIES leaves out of a mean for zeros of a divisor, not of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adaptzip.errors import UsageError

Majority = Literal["total", "frequency"]


@dataclass(frozen=True)
class Rule:
    """How several tensors become one.

    Attributes:
        pruned: which numbers of each are kept: all (None), its `density` largest ("largest"), or that share of them by
            chance and the others' part added to them ("random").
        elects: whether each place counts only the tensors that agree with the majority's sign there, and their mean
            instead of their sum.
        density: the share that is kept, in [0, 1].
        majority: "total" has the larger sum of one sign, "frequency" the larger number of tensors.
    """

    pruned: Literal["largest", "random"] | None = None
    elects: bool = False
    density: float | None = None
    majority: Majority = "total"

    def __post_init__(self) -> None:
        if (self.pruned is None) != (self.density is None):
            if self.density is None:
                raise UsageError(
                    "a method that prunes needs a density, the share of numbers that it keeps",
                    hint="give one between 0 and 1: `density=0.5`",
                )
            raise UsageError(
                f"a density of {self.density} is for methods that prune, and this one does not", hint="leave it out"
            )
        if self.density is not None and not 0 <= self.density <= 1:
            raise UsageError(f"a density of {self.density} was asked for, expected a number between 0 and 1")

    def apply(self, tensors: Sequence[Tensor], weights: Sequence[float], generator: torch.Generator | None) -> Tensor:
        """The weighted sum, or mean, of what is kept.

        Args:
            tensors: of one shape and dtype.
            weights: of each, by which its numbers are multiplied after signs are counted.
            generator: what chance comes from; None for torch's own.
        """
        stacked = torch.stack([self._kept(tensor, generator) for tensor in tensors])
        factors = torch.tensor(list(weights)).reshape(-1, *[1] * tensors[0].ndim)
        if not self.elects:
            return (stacked * factors).sum(dim=0)
        agreeing = _agreeing(stacked, self.majority)
        return (stacked * factors * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1.0)

    def _kept(self, tensor: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.density is None or self.density == 1:
            return tensor
        if self.pruned == "largest":
            return tensor * _largest(tensor, self.density)
        mask = torch.bernoulli(torch.full_like(tensor, self.density), generator=generator)
        return tensor * mask / self.density if self.density else torch.zeros_like(tensor)


def _largest(tensor: Tensor, density: float) -> Tensor:
    """1 at the places of the largest magnitudes, 0 at the others."""
    mask = torch.zeros(tensor.numel(), dtype=tensor.dtype)
    mask[torch.topk(tensor.abs().reshape(-1), int(density * tensor.numel())).indices] = 1
    return mask.reshape(tensor.shape)


def _agreeing(stacked: Tensor, majority: Majority) -> Tensor:
    """Which tensors have the majority's sign at each place; where there is none it is plus."""
    signs = stacked.sign()
    votes = (stacked if majority == "total" else signs).sum(dim=0)
    return signs == torch.where(votes >= 0, 1, -1)
