"""Which texts are trained on when, and what the teacher says to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptzip.distillation.losses import Counts, LossWeights, Seen, loss
from adaptzip.distillation.machines import within_memory
from adaptzip.distillation.schedules import Schedule
from adaptzip.distillation.student import Factors, Guest
from adaptzip.errors import UsageError
from adaptzip.models.kinds import OF_TEXTS
from adaptzip.models.live.batches import Encoded, collate
from adaptzip.models.live.running import NO_LABEL, Batch, Kind, LoadedModel
from adaptzip.reports.outputs import KEPT_BYTES

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
    """Whether the weighted loss of the base without any update is the teacher's own on all training texts.

    Args:
        size: texts that are run at once; the first of which something can be learnt ends the search.
    """
    look = {"hidden": weights.hidden > 0, "modules": weights.modules > 0}
    kind = teacher.loaded.kind
    for first in range(0, len(teacher.texts), size):
        indices = range(first, min(first + size, len(teacher.texts)))
        with within_memory(size), torch.no_grad():
            batch = teacher.batch(indices)
            # In the same batch, so that what is the same is the same to the last bit.
            theirs, ours = (teacher.guest.look(batch, factors, **look) for factors in (teacher.factors, {}))
        labels, counts = teacher.loaded.rows_labels(batch), teacher.counts(indices)
        own, base = (float(loss(kind, weights, theirs, seen, labels, counts)) for seen in (theirs, ours))
        if base != own:
            return False
    return True


def needed(teacher: Teacher, schedule: Schedule) -> list[int]:
    """Texts that the schedule comes to."""
    lengths = [len(text.ids) for text in teacher.texts]
    per_epoch = -(-len(lengths) // schedule.batch)
    if schedule.most >= per_epoch:
        return list(range(len(lengths)))
    batches = order(lengths, schedule.batch, schedule.seed)
    return sorted({i for _ in range(schedule.steps) for i in next(batches)})


def check_labels(kind: Kind, texts: Sequence[Encoded], weights: LossWeights) -> None:
    """Refuse a weight on labels that are not there.

    Raises:
        UsageError: if no text has any.
    """
    if not weights.labels or any(label_count(kind, text) for text in texts):
        return
    if kind == "encoder":
        raise UsageError("an encoder has no use for labels, which have a weight in the loss", hint="drop `labels=`")
    if kind == "causal":
        raise UsageError(
            "the labels have a weight in the loss, which of a causal model are the next tokens, but none of the texts "
            "to train on has two tokens",
            hint="raise `max_tokens=`, or give longer texts",
        )
    fields = "`label_field=` or `completion_field=`" if kind == "seq2seq" else "`label_field=`"
    raise UsageError(
        "the labels have a weight in the loss, but none of the texts to train on has a label",
        hint=f"name them with {fields}, or drop `labels=`",
    )


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
