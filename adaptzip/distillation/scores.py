"""What a model makes of the data, in numbers: beside the teacher, and beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from scipy.stats import rankdata
from torch import Tensor

from adaptzip.calibration.models import NO_LABEL, Batch, Kind, LoadedModel
from adaptzip.calibration.rows import compare, count_right, summed_loss
from adaptzip.errors import BaseModelError, CheckFailedError

_METRICS: dict[Kind, tuple[str, str | None]] = {
    "classifier": ("accuracy", None),
    "tokens": ("accuracy", None),
    "causal": ("loss", None),
    "seq2seq": ("loss", None),
    "multilabel": ("F1", "macro F1"),
    "scores": ("squared error", "rank correlation"),
}


@dataclass(frozen=True)
class Score:
    """What a model makes of the data.

    Attributes:
        kl: mean KL divergence from the model's to the teacher's distribution, in nats, of several labels summed over
            them; None for an encoder and for scores.
        agreement: share of these distributions with the same largest entry, of several labels the share of decisions
            that are the same; None for an encoder and for scores.
        cosine: mean of 1 - cosine with the teacher's embeddings; None unless an encoder.
        metric: accuracy (classifier, tokens), loss in nats per token (causal, seq2seq), F1 over all decisions
            (multilabel) or mean squared error (scores); None without labels.
        samples: distributions, embeddings or texts compared.
        squared_error: mean squared difference from the teacher's scores; None unless scores.
        rank_correlation: Spearman's with the teacher's scores; None unless scores, and where all are equal.
        second: mean F1 of the classes (multilabel), or Spearman's rank correlation with the labels (scores); None
            without labels and for other kinds.
    """

    kl: float | None
    agreement: float | None
    cosine: float | None
    metric: float | None
    samples: int
    squared_error: float | None = None
    rank_correlation: float | None = None
    second: float | None = None

    @property
    def distance(self) -> float | None:
        """From the teacher: the KL, for an encoder 1 - cosine, for scores the squared error."""
        found = (self.kl, self.cosine, self.squared_error)
        return next((value for value in found if value is not None), None)


def metric_name(kind: Kind) -> str | None:
    """What `Score.metric` is for a kind of model, such as "accuracy"; None for an encoder."""
    return _METRICS.get(kind, (None, None))[0]


def second_metric_name(kind: Kind) -> str | None:
    """The same of `Score.second`."""
    return _METRICS.get(kind, (None, None))[1]


def score(
    loaded: LoadedModel,
    model: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    teacher: Sequence[Tensor],
) -> Score:
    """Hold a model's outputs against the teacher's, and against the labels where there are some.

    Args:
        loaded: says what the model is for, and which labels a batch's rows have.
        model: gives the rows (rows, width) of a batch.
        teacher: the teacher's rows of each batch.

    Raises:
        BaseModelError: if the two do not put out the same shape.
        CheckFailedError: if there is no row at all.
    """
    with torch.no_grad():
        return score_pairs(loaded, batches, ((model(batch), out) for batch, out in zip(batches, teacher, strict=True)))


def score_pairs(loaded: LoadedModel, batches: Sequence[Batch], pairs: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """The same of (rows, the teacher's rows) of each batch."""
    samples = labelled = 0
    away = same = measured = 0.0
    kept: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for batch, (rows, expected) in zip(batches, pairs, strict=True):
        if rows.shape != expected.shape:
            raise BaseModelError(
                f"puts out {rows.shape[1]} numbers a sample, the teacher {expected.shape[1]}",
                hint="compare adapters of one task, with the same classes",
            )
        samples += len(rows)
        distance, alike = compare(loaded.kind, expected, rows)
        away, same = away + distance, same + alike
        labels = loaded.rows_labels(batch)
        if loaded.kind in ("multilabel", "scores"):
            kept.append((rows.double().cpu(), expected.double().cpu(), None if labels is None else labels.cpu()))
        elif labels is not None:
            labelled += int((labels != NO_LABEL).sum())
            counts = metric_name(loaded.kind) == "accuracy"
            measured += count_right(rows, labels) if counts else summed_loss(rows, labels)
    if not samples:
        raise CheckFailedError("none of the texts has a token", hint="give texts that are not empty")
    if loaded.kind == "encoder":
        return Score(None, None, away / samples, None, samples)
    if loaded.kind == "scores":
        return _of_scores(kept, samples)
    if loaded.kind == "multilabel":
        metric, second = _f1(kept)
        return Score(away / samples, same / samples, None, metric, samples, second=second)
    return Score(away / samples, same / samples, None, measured / labelled if labelled else None, samples)


def _of_scores(kept: Sequence[tuple[Tensor, Tensor, Tensor | None]], samples: int) -> Score:
    rows, teacher = torch.cat([part[0] for part in kept]), torch.cat([part[1] for part in kept])
    found, labels = _labelled(kept)
    return Score(
        None,
        None,
        None,
        float((found - labels).square().mean()) if len(labels) else None,
        samples,
        squared_error=float((rows - teacher).square().mean()),
        rank_correlation=rank_correlation(rows, teacher),
        second=rank_correlation(found, labels),
    )


def _labelled(kept: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
    """The rows that have labels, and these, float64."""
    rows = torch.cat([part[0] for part in kept])
    labels = torch.cat(
        [torch.full_like(own, torch.nan) if labels is None else labels.double() for own, _, labels in kept]
    )
    there = ~labels.isnan().any(1)
    return rows[there], labels[there]


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's, of the columns of (rows, outputs) in the mean; None where one has no order."""
    found = []
    for a, b in zip(first.T, second.T, strict=True):
        if len(a) > 1:
            ranks = torch.stack([torch.from_numpy(rankdata(column.numpy())) for column in (a, b)])
            found.append(float(torch.corrcoef(ranks)[0, 1]))
    mean = sum(found) / len(found) if found else float("nan")
    return mean if isfinite(mean) else None


def _f1(kept: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[float | None, float | None]:
    """F1 of all decisions together, and the mean of the classes' own; 0 where a class is neither there nor chosen."""
    rows, labels = _labelled(kept)
    if not len(labels):
        return None, None
    chosen, there = rows > 0, labels > 0.5
    right, either = (chosen & there).double().sum(0), chosen.double().sum(0) + there.double().sum(0)
    return float(2 * right.sum() / either.sum().clamp(min=1)), float((2 * right / either.clamp(min=1)).mean())
