"""What a teacher puts out for the data, kept in memory as far as it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import torch
from torch import Tensor

from adaptzip.models.live.running import Batch

KEPT_BYTES = 2**30
"""Of a teacher's outputs that are kept; where they take more, they are computed again whenever they are needed."""


def outputs(model: Callable[[Batch], Tensor], batches: Sequence[Batch]) -> list[Tensor]:
    """What a model puts out for each batch, without gradients; a loss may be taken against it."""
    # Not inference mode, whose tensors no later computation with gradients may keep.
    with torch.no_grad():
        return [model(batch) for batch in batches]


def teacher_outputs(
    model: Callable[[Batch], Tensor], batches: Sequence[Batch], *, keep: int = KEPT_BYTES
) -> Sequence[Tensor]:
    """The same, keeping at most `keep` bytes in memory; of more, each output is computed whenever it is asked for."""
    kept: list[Tensor] = []
    used = 0
    for batch in batches:
        kept += outputs(model, [batch])
        used += kept[-1].nbytes
        if used > keep:
            return _Recomputed(model, batches)
    return kept


class _Recomputed(Sequence[Tensor]):
    """Outputs that are computed whenever they are asked for."""

    def __init__(self, model: Callable[[Batch], Tensor], batches: Sequence[Batch]) -> None:
        self._model, self._batches = model, batches

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, place: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(place, slice):
            return _Recomputed(self._model, self._batches[place])
        return outputs(self._model, [self._batches[place]])[0]

    def __len__(self) -> int:
        return len(self._batches)
