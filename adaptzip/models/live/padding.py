"""Whether a model puts out the same for a text among others, which it is padded with, as for the text alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.errors import RefusedError, warn
from adaptzip.models.live.batch import Batch

_NOISE = 1e-4
"""By no more of their largest number do the outputs of a text differ where it is run in another batch."""
_FACTOR = 2


@dataclass(eq=False)
class Company:
    """What is known of a model's texts in batches: some models let padding through, or other texts.

    Attributes:
        apart: texts have to be run one at a time.
        width, padding: most tokens and most padding of a text in the batches that were tried.
    """

    apart: bool = False
    width: int = 0
    padding: int = 0

    def suits(self, batch: Batch, each: Iterable[Batch], run: Callable[[Batch], Tensor], name: str) -> bool:
        """Whether a batch may be run at once; tried where it is unlike all before it, and denied with a warning.

        Args:
            each: its texts alone.
            run: gives the rows (rows, width) of a batch.
            name: of the model.
        """
        if not self.apart and self._is_new(batch):
            self.apart = not _alike(batch, each, run)
            if self.apart:
                warn(
                    f"{name} does not put out the same for a text in a batch as for the text alone: its texts are run "
                    "one at a time"
                )
        return not self.apart

    def _is_new(self, batch: Batch) -> bool:
        """Whether there are several texts, for the first time, or more than twice as long or as padded as before."""
        texts, padding = len(batch.ids), int((~batch.mask).sum(1).max())
        if texts == 1:
            return False
        new = not self.width or batch.width > _FACTOR * self.width or padding > _FACTOR * self.padding
        if new:
            self.width, self.padding = max(self.width, batch.width), max(self.padding, padding)
        return new


def _alike(batch: Batch, each: Iterable[Batch], run: Callable[[Batch], Tensor]) -> bool:
    """Whether a batch and its texts alone have the same rows; as well where these don't run, which is said later."""
    with torch.no_grad():
        try:
            alone = torch.cat([run(one) for one in each])
        except RefusedError:
            return True
        try:
            together = run(batch)
        except RefusedError:
            return False
    if together.shape != alone.shape or not torch.equal(together.isfinite(), alone.isfinite()):
        return False
    difference, largest = ((x.nan_to_num(0.0, 0.0, 0.0).abs().max()) for x in (together - alone, alone))
    return bool(difference <= _NOISE * largest)
