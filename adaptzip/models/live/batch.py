"""Texts that are run together, and their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NO_LABEL = -100
"""Stands where there is no label, as in torch's cross entropy."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts of like length.

    Attributes:
        ids: token ids (texts, longest) int64.
        mask: where they are no padding, (texts, longest) bool.
        labels: int64 with `NO_LABEL` where there is none, or None. The classes of the texts (texts,), those of their
            tokens (texts, longest), or the target texts' ids (texts, longest target). Of several labels and of scores
            float (texts, outputs), NaN where there is none.
        types: the tokens' types, as which of two texts they are of, (texts, longest) int64; None where the model is
            told none.
        scored: tokens of a causal model whose rows count, (texts, longest) bool; None where all do.
        apart: the texts have to be run one at a time.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor | None = None
    types: Tensor | None = None
    scored: Tensor | None = None
    apart: bool = False

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    @property
    def width(self) -> int:
        """Tokens of the longest text."""
        return self.ids.shape[1]

    @property
    def targets(self) -> Tensor:
        """What a seq2seq model is to write: the labels, and without them the texts themselves."""
        return self.ids.masked_fill(~self.mask, NO_LABEL) if self.labels is None else self.labels

    def each(self, *, words: bool = False) -> Iterator[Batch]:
        """Every text by itself, without padding.

        Args:
            words: labels are those of tokens.
        """
        for row, mask in enumerate(self.mask):
            own = slice(row, row + 1)

            def cut(tensor: Tensor | None, own: slice = own, mask: Tensor = mask) -> Tensor | None:
                return None if tensor is None else tensor[own, mask]

            labels = self.labels
            if labels is not None:
                labels = cut(labels) if words else _written(labels[own])
            yield Batch(self.ids[own, mask], self.mask[own, mask], labels, cut(self.types), cut(self.scored))


def _written(labels: Tensor) -> Tensor:
    """The labels of one text, a text to be written without what it is filled up with."""
    if labels.ndim == 1 or labels.is_floating_point():
        return labels
    return labels[:, labels[0] != NO_LABEL]


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of numbers as one tensor (rows, longest) int64, filled up at their ends."""
    longest = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.int64)
