"""Every metric is scikit-learn's or scipy's, on the data as it is and on resamples of its texts."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef, mean_squared_error
from torch import Tensor, nn

from adaptzip.core.training_report import share_kept
from adaptzip.errors import BaseModelError, CheckFailedError, RefusedError, UsageError
from adaptzip.models.live.running import NO_LABEL, Batch, Kind, LoadedModel
from adaptzip.reports.measures.metrics import Metric, chosen_metric, metrics_of, settled_name, values_of
from adaptzip.reports.measures.tallies import Tally, tally
from tests.cases.drawn_tallies import TEXTS, drawn, tallied

WEIGHTS = np.random.default_rng(3).multinomial(TEXTS, np.full(TEXTS, 1 / TEXTS), 40).astype(np.float64)
"""How often each text is in some resamples."""


def metric(kind: Kind, name: str, width: int = 3) -> Metric:
    return next(found for found in metrics_of(kind, width) if found.name == name)


def agrees(found: Metric, own: Tally, expected: object) -> None:
    """On the whole data, and on resamples, of which `expected` is asked by rows of the tally with repetitions."""
    assert found.value(own) == pytest.approx(expected(np.arange(len(own.owners))))  # type: ignore[operator]
    resampled = found.resampled(found.columns(own), WEIGHTS)
    for weights, value in zip(WEIGHTS, resampled, strict=True):
        rows = np.repeat(np.arange(len(own.owners)), weights[own.owners].astype(int))
        assert value == pytest.approx(expected(rows))  # type: ignore[operator]


@pytest.mark.parametrize("width", [2, 3, 7])
@pytest.mark.parametrize("kind", ["classifier", "tokens"])
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_of_classes(kind: Kind, width: int) -> None:
    own = tallied(kind, width)
    labels, found = own.labels, own.found
    agrees(metric(kind, "accuracy"), own, lambda rows: accuracy_score(labels[rows], found[rows]))
    agrees(
        metric(kind, "macro F1"),
        own,
        lambda rows: f1_score(labels[rows], found[rows], average="macro", zero_division=0),
    )
    agrees(metric(kind, "MCC"), own, lambda rows: matthews_corrcoef(labels[rows], found[rows]))
    if width == 2:
        agrees(metric(kind, "F1", 2), own, lambda rows: f1_score(labels[rows], found[rows], zero_division=0))
    assert ("F1" in values_of(own)) == (width == 2)


def test_of_several_labels() -> None:
    own = tallied("multilabel", 4)
    labels, found = own.labels, own.found
    for name, average in (("F1", "micro"), ("macro F1", "macro")):
        agrees(
            metric("multilabel", name),
            own,
            lambda rows, average=average: f1_score(labels[rows], found[rows], average=average, zero_division=0),
        )
    agrees(metric("multilabel", "exact match"), own, lambda rows: accuracy_score(labels[rows], found[rows]))


@pytest.mark.parametrize("width", [1, 2])
def test_of_scores(width: int) -> None:
    own = tallied("scores", width)
    labels, found = np.asarray(own.labels, float), np.asarray(own.found, float)
    assert len(np.unique(labels)) < len(labels), "there are ties"
    agrees(metric("scores", "squared error"), own, lambda rows: mean_squared_error(labels[rows], found[rows]))
    for name, of in (("rank correlation", spearmanr), ("correlation", pearsonr)):
        agrees(
            metric("scores", name),
            own,
            lambda rows, of=of: np.mean([of(found[rows, i], labels[rows, i]).statistic for i in range(width)]),
        )


def test_of_tokens_to_be_written() -> None:
    own = tallied("seq2seq", 4)
    loss, exact = metric("seq2seq", "loss"), metric("seq2seq", "exact match")
    rows, labels, owners = own_rows("seq2seq", 4)
    known = labels != NO_LABEL
    p = rows[known].double().softmax(1).numpy()
    assert loss.value(own) == pytest.approx(log_loss(labels[known], p, labels=range(4)))
    right = [
        bool((rows[mine].argmax(1) == labels[mine]).all()) for text in range(TEXTS) if (mine := owners == text).any()
    ]
    assert 0 < sum(right) < len(right)
    assert exact.value(own) == pytest.approx(np.mean(right))
    whole = np.ones((1, TEXTS))
    assert loss.resampled(loss.columns(own), whole)[0] == pytest.approx(loss.value(own))
    assert exact.resampled(exact.columns(own), 2 * whole)[0] == pytest.approx(np.mean(right))


def own_rows(kind: Kind, width: int) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    rows, batch, loaded = drawn(kind, width)
    labels = loaded.rows_labels(batch)
    assert labels is not None
    return rows, labels, loaded.rows_texts(batch).numpy()


@pytest.mark.parametrize("kind", ["classifier", "tokens", "multilabel", "scores", "seq2seq", "causal", "encoder"])
def test_batches_are_joined_text_by_text(kind: Kind) -> None:
    whole, parts = tallied(kind, 3), tallied(kind, 3, batch=2)
    for name in ("samples", "away", "alike", "labelled", "right", "loss", "owners", "found", "labels", "scores"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), err_msg=name)
    assert whole.texts == TEXTS
    assert values_of(parts) == pytest.approx(values_of(whole))


def test_what_is_undefined_is_none() -> None:
    own = tallied("scores", 1, constant=True)
    assert values_of(own)["rank correlation"] is None
    assert values_of(own)["correlation"] is None
    assert values_of(own)["squared error"] is not None
    found = metric("scores", "correlation")
    assert np.isnan(found.resampled(found.columns(own), WEIGHTS)).all()
    one = np.zeros((1, TEXTS))
    one[0, 4] = TEXTS
    own = tallied("scores", 1)
    for name in ("rank correlation", "correlation"):
        found = metric("scores", name)
        assert np.isnan(found.resampled(found.columns(own), one)).all()
    assert values_of(tallied("classifier", 3, labelled=False)) == {}


def test_names() -> None:
    assert settled_name("macro-f1") == settled_name("Macro_F1") == settled_name("macro F1") == "macro F1"
    assert share_kept("loss", 3.0, 1.0, 2.0) == share_kept("MCC", 0.0, 1.0, 0.5) == 0.5
    assert share_kept("squared error", 1.0, 3.0, 2.0) is share_kept("accuracy", 0.5, 0.5, 0.5) is None
    assert settled_name("pearson") == "correlation"
    with pytest.raises(UsageError, match="there is no metric 'luck'"):
        settled_name("luck")
    with pytest.raises(UsageError, match="a model for causal is not measured by MCC"):
        chosen_metric("MCC", "causal", 2)
    with pytest.raises(UsageError, match="a model for encoder is not measured by MCC"):
        chosen_metric("MCC", "encoder", 2)
    with pytest.raises(UsageError, match="F1 is that of the second of two classes, the model has 3"):
        chosen_metric("F1", "tokens", 3)
    assert chosen_metric("F1", "multilabel", 3).name == "F1"


def test_without_scikit_learn_its_metrics_are_left_out_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = tallied("classifier", 2)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    assert values_of(own).keys() == {"accuracy"}
    assert values_of(tallied("multilabel", 2)).keys() == {"F1", "macro F1", "exact match"}
    assert chosen_metric("accuracy", "classifier", 2).name == "accuracy"
    with pytest.raises(RefusedError, match="need the package scikit-learn") as caught:
        chosen_metric("F1", "classifier", 2)
    assert caught.value.hint == "pip install 'adaptzip[metrics]'"


def test_scikit_learn_is_quiet() -> None:
    own = tallied("classifier", 3, constant=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert values_of(own)["MCC"] == 0.0


def test_what_can_not_be_tallied() -> None:
    loaded = LoadedModel(nn.Linear(1, 1), "classifier", None, {})  # type: ignore[arg-type]
    batch = Batch(torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(BaseModelError, match="puts out 2 numbers a sample, the teacher 3"):
        tally(loaded, [batch], [(torch.zeros(2, 2), torch.zeros(2, 3))])
    with pytest.raises(CheckFailedError, match="none of the texts has a token"):
        tally(loaded, [], [])
