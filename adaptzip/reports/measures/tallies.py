"""What a model makes of the data, text by text: the sums that every measure is told by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.errors import BaseModelError, CheckFailedError
from adaptzip.models.kinds import WITH_HEAD, Kind
from adaptzip.models.live.rows import compare_rows, losses
from adaptzip.models.live.running import NO_LABEL, Batch, LoadedModel

Numbers: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums for each text, in the order of the batches; what is (texts,) is float64.

    Attributes:
        kind: what the model is for.
        width: numbers that it puts out for a row.
        samples: rows (texts,): distributions, embeddings or scores compared.
        away: their distances from the teacher's (texts,), summed (`rows.distances`).
        alike: how many of them are decided alike (texts,); NaN for scores and embeddings.
        labelled: how many of them have a label (texts,).
        right: of these, those whose largest entry is the label, or all of whose decisions are right (texts,).
        loss: the summed cross entropy in nats of causal and seq2seq models' labelled rows (texts,); else 0.
        owners: the text of each labelled row (labelled,) int64; (0,) for models without a trained head.
        found: what these rows say: classes (labelled,) int64 (classifier, tokens), decisions (labelled, width) bool
            (multilabel) or scores (labelled, width) float64; (0, 0) for other kinds.
        labels: their labels, in the same form.
        scores: of a model for scores all rows (texts, width); else (0, width).
        expected: the teacher's, in the same form.
    """

    kind: Kind
    width: int
    samples: Numbers
    away: Numbers
    alike: Numbers
    labelled: Numbers
    right: Numbers
    loss: Numbers
    owners: NDArray[np.int64]
    found: NDArray[np.generic]
    labels: NDArray[np.generic]
    scores: Numbers
    expected: Numbers

    @property
    def texts(self) -> int:
        return len(self.samples)


def tally(loaded: LoadedModel, batches: Sequence[Batch], pairs: Iterable[tuple[Tensor, Tensor]]) -> Tally:
    """Sums of (rows, the teacher's rows) of each batch.

    Args:
        loaded: says what the model is for, and which texts and labels a batch's rows have.

    Raises:
        BaseModelError: if the two do not put out the same shape.
        CheckFailedError: if there is no row at all.
    """
    parts = [_of_batch(loaded, batch, rows, expected) for batch, (rows, expected) in zip(batches, pairs, strict=True)]
    if not any(part.samples.any() for part in parts):
        raise CheckFailedError("none of the texts has a token", hint="give texts that are not empty")
    return _joined(parts)


def _of_batch(loaded: LoadedModel, batch: Batch, rows: Tensor, expected: Tensor) -> Tally:
    if rows.shape != expected.shape:
        raise BaseModelError(
            f"puts out {rows.shape[1]} numbers a sample, the teacher {expected.shape[1]}",
            hint="compare adapters of one task, with the same classes",
        )
    kind, texts = loaded.kind, loaded.rows_texts(batch).cpu()
    labels = loaded.rows_labels(batch)
    if labels is None:
        there, right, loss = (torch.zeros(len(rows), dtype=torch.float64) for _ in range(3))
        labels = torch.full((len(rows),), NO_LABEL)
    else:
        there = (labels != NO_LABEL) if labels.ndim == 1 else ~labels.isnan().any(1)
        right, loss = _right(kind, rows, labels), _loss(kind, rows, labels)

    def by_text(values: Tensor) -> Numbers:
        summed = torch.zeros(len(batch.ids), dtype=torch.float64)
        return summed.index_add_(0, texts, values.double().cpu()).numpy()

    away, alike = compare_rows(kind, expected, rows)
    known = there.bool().cpu() & (kind in WITH_HEAD)
    scores = (rows, expected) if kind == "scores" else (rows[:0], expected[:0])
    found, told = (values.cpu()[known].numpy() for values in _decided(kind, rows, labels))
    return Tally(
        kind,
        rows.shape[1],
        samples=by_text(torch.ones(len(rows))),
        away=by_text(away),
        alike=by_text(alike),
        labelled=by_text(there),
        right=by_text(right),
        loss=by_text(loss),
        owners=texts[known].numpy(),
        found=found,
        labels=told,
        scores=scores[0].double().cpu().numpy(),
        expected=scores[1].double().cpu().numpy(),
    )


def _right(kind: Kind, rows: Tensor, labels: Tensor) -> Tensor:
    if kind == "multilabel":
        return ((rows > 0) == (labels > 0.5)).all(1) & ~labels.isnan().any(1)
    return torch.zeros(len(rows)) if kind == "scores" else rows.argmax(1) == labels


def _loss(kind: Kind, rows: Tensor, labels: Tensor) -> Tensor:
    return losses(rows, labels) if kind in ("causal", "seq2seq") else torch.zeros(len(rows))


def _decided(kind: Kind, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What rows say, and their labels."""
    if kind in ("classifier", "tokens"):
        return rows.argmax(1), labels
    if kind in ("multilabel", "scores") and labels.ndim == rows.ndim:
        return (rows > 0, labels > 0.5) if kind == "multilabel" else (rows.double(), labels.double())
    return rows[:, :0], rows[:, :0]


def _joined(parts: Sequence[Tally]) -> Tally:
    """The tallies of all batches as one; a batch without labels has none to join."""
    starts = np.cumsum([0, *(part.texts for part in parts)])
    told = [part for part in parts if part.labelled.any()] or list(parts[:1])

    def joined(name: str, of: Sequence[Tally] = parts) -> Any:
        return np.concatenate([getattr(part, name) for part in of])

    owners = [part.owners + start for part, start in zip(parts, starts, strict=False)]
    every = ("samples", "away", "alike", "labelled", "right", "loss", "scores", "expected")
    return replace(
        parts[0],
        owners=np.concatenate(owners),
        found=joined("found", told),
        labels=joined("labels", told),
        **{name: joined(name) for name in every},
    )
