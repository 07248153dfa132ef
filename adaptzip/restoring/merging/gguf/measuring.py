"""How much of an update comes through rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptzip.restoring.merging.edits import Update


@dataclass(frozen=True)
class Kept:
    """What became of an update: squared sums of what rounding changed, and of the update."""

    lost: float = 0.0
    size: float = 0.0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.lost + other.lost, self.size + other.size)

    @property
    def share(self) -> float | None:
        """1 - lost / size; None for no update."""
        return 1 - self.lost / self.size if self.size else None


def measured(exact: Tensor, update: Update, written: Tensor) -> Kept:
    """What became of the update of some rows.

    Args:
        exact: the base's, float32.
        update: theirs.
        written: the merged ones as they will be read, float32.
    """
    if update.factors.magnitude is None:
        change = update.apply(torch.zeros_like(exact), safe=False)
    else:
        change = update.apply(exact.clone(), safe=False).sub_(exact)
    return Kept(_squares((written - exact).sub_(change)), _squares(change))


def _squares(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


@dataclass(frozen=True)
class Shares:
    """Of all modules."""

    modules: Mapping[str, Kept] = field(default_factory=dict)

    @property
    def kept(self) -> float | None:
        """The share over all modules; None without any update."""
        return sum(self.modules.values(), Kept()).share

    @property
    def worst(self) -> tuple[str, float] | None:
        """The module of which least came through."""
        shares = [(name, found.share) for name, found in self.modules.items()]
        known = [(name, share) for name, share in shares if share is not None]
        return min(known, key=lambda item: (item[1], item[0]), default=None)
