"""Which texts are trained on when, and what the teacher says to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptzip.calibration.kinds import OF_TEXTS
from adaptzip.calibration.models import NO_LABEL, Batch, Kind, LoadedModel
from adaptzip.distillation.data import Encoded, collate
from adaptzip.distillation.losses import Counts, LossWeights, Seen, loss
from adaptzip.distillation.outputs import KEPT_BYTES
from adaptzip.distillation.student import Factors, Guest

_SORTED_TOGETHER = 32
"""Batches whose texts are sorted by length together, so that little is padded."""


def order(lengths: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """Batches of indices without end: every epoch in a new random order, texts of like length together.

    The order follows from the seed alone, so that a run that is resumed continues it.
    """
    epoch = 0
    while True:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        shuffled = torch.randperm(len(lengths), generator=generator).tolist()
        batches = []
        for first in range(0, len(shuffled), size * _SORTED_TOGETHER):
            part = sorted(shuffled[first : first + size * _SORTED_TOGETHER], key=lengths.__getitem__)
            batches += [part[i : i + size] for i in range(0, len(part), size)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[place]
        epoch += 1


@dataclass(eq=False)
class Teacher:
    """Base and teacher, asked about training texts.

    Attributes:
        guest: the model.
        factors: the teacher's updates.
        texts: the training texts.
        kept: the teacher's rows of each text; empty where they are too large to keep.
    """

    guest: Guest
    factors: Factors
    texts: Sequence[Encoded]
    kept: dict[int, Tensor] = field(default_factory=dict)

    @property
    def loaded(self) -> LoadedModel:
        return self.guest.loaded

    def batch(self, indices: Sequence[int]) -> Batch:
        """The texts with these indices."""
        return collate(self.loaded, [self.texts[i] for i in indices])

    def answer(self, indices: Sequence[int], batch: Batch, *, hidden: bool = False, modules: bool = False) -> Seen:
        """What the teacher makes of a batch."""
        if not (hidden or modules) and all(i in self.kept for i in indices):
            return Seen(torch.cat([self.kept[i] for i in indices]).to(batch.ids.device))
        with torch.no_grad():
            return self.guest.look(batch, self.factors, hidden=hidden, modules=modules)

    def counts(self, indices: Sequence[int]) -> Counts:
        """Of the texts with these indices."""
        texts = [self.texts[i] for i in indices]
        return Counts(
            sum(row_count(self.loaded.kind, text) for text in texts),
            sum(label_count(self.loaded.kind, text) for text in texts),
        )

    def keep(self, indices: Sequence[int], size: int) -> None:
        """Ask about these texts now and remember the answers, unless they take more than `KEPT_BYTES`."""
        by_length = sorted(set(indices), key=lambda i: (len(self.texts[i].ids), i))
        counts = {i: row_count(self.loaded.kind, self.texts[i]) for i in by_length}
        for first in range(0, len(by_length), size):
            part = by_length[first : first + size]
            with torch.no_grad():
                rows = self.guest(self.batch(part), self.factors).cpu()
            if first == 0 and rows[0].nbytes * sum(counts.values()) > KEPT_BYTES:
                return
            self.kept |= dict(zip(part, torch.split(rows, [counts[i] for i in part]), strict=True))


def nothing_to_learn(teacher: Teacher, weights: LossWeights, size: int) -> bool:
    """Whether the loss of the base without any update is 0 on all training texts, of which `size` are run at once."""
    look = {"hidden": weights.hidden > 0, "modules": weights.modules > 0}
    for first in range(0, len(teacher.texts), size):
        indices = range(first, min(first + size, len(teacher.texts)))
        batch = teacher.batch(indices)
        theirs = teacher.answer(indices, batch, **look)
        with torch.no_grad():
            ours = teacher.guest.look(batch, {}, **look)
        labels = teacher.loaded.rows_labels(batch)
        if float(loss(teacher.loaded.kind, weights, theirs, ours, labels, teacher.counts(indices))):
            return False
    return True


def row_count(kind: Kind, text: Encoded) -> int:
    """Rows that a text has in a model's output."""
    if kind in (*OF_TEXTS, "encoder"):
        return 1
    if kind == "causal" and text.start:
        return len(text.ids) - text.start
    return len(text.labels if kind == "seq2seq" and text.labels else text.ids)


def label_count(kind: Kind, text: Encoded) -> int:
    """Rows of a text that have a label (`LoadedModel.rows_labels`)."""
    if kind == "causal":
        return len(text.ids) - (text.start or 1)
    if kind in ("multilabel", "scores"):
        return int(bool(text.labels))
    return 0 if kind == "encoder" else sum(label != NO_LABEL for label in text.labels)
