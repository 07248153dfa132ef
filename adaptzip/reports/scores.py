"""What a model makes of the data, in numbers: beside the teacher, and beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from adaptzip.models.live.running import Batch, LoadedModel
from adaptzip.reports.measures.metrics import correlation, metrics_of, second_metric_name
from adaptzip.reports.measures.tallies import Tally, tally


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
            (multilabel) or mean squared error (scores), or another that was asked for; None without labels.
        samples: distributions, embeddings or texts compared.
        squared_error: mean squared difference from the teacher's scores; None unless scores.
        rank_correlation: Spearman's with the teacher's scores; None unless scores, and where all are equal.
        second: mean F1 of the classes (multilabel), or Spearman's rank correlation with the labels (scores); None
            without labels, for other kinds, and beside a metric that was asked for.
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
    return score_of(tallied(loaded, model, batches, teacher))


def tallied(
    loaded: LoadedModel, model: Callable[[Batch], Tensor], batches: Sequence[Batch], teacher: Sequence[Tensor]
) -> Tally:
    """The sums that `score` is told by; it raises the same."""
    with torch.no_grad():
        return tally(loaded, batches, ((model(batch), out) for batch, out in zip(batches, teacher, strict=True)))


def score_of(found: Tally) -> Score:
    """A score from the sums of the texts."""
    kind, samples = found.kind, int(found.samples.sum())
    away = float(found.away.sum()) / samples
    measures = metrics_of(kind, found.width)
    metric = measures[0].value(found) if measures else None
    second = measures[1].value(found) if second_metric_name(kind) is not None else None
    if kind == "encoder":
        return Score(None, None, away, None, samples)
    if kind == "scores":
        order = correlation(spearmanr, found.scores, found.expected)
        error = away / found.width
        return Score(None, None, None, metric, samples, squared_error=error, rank_correlation=order, second=second)
    return Score(away, float(found.alike.sum()) / samples, None, metric, samples, second=second)
