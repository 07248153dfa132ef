"""Differences between adapters: their intervals are those of a paired bootstrap that is done the long way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import f1_score

from adaptzip.models.live.running import Kind
from adaptzip.reports.measures import differences as module
from adaptzip.reports.measures.differences import Difference, Interval, differences
from adaptzip.reports.measures.metrics import metrics_of
from adaptzip.reports.measures.tallies import Tally
from tests.cases.drawn_tallies import TEXTS, tallied


def rows(kind: Kind, width: int = 3, **options: bool) -> dict[str, Tally]:
    return {name: tallied(kind, width, seed=seed, **options) for seed, name in enumerate(("teacher", "a", "b"))}


def by_long_way(statistic: object, *data: object) -> tuple[float, float]:
    """scipy's own paired bootstrap, resample by resample."""
    found = bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=200,
        random_state=np.random.default_rng(5),
    ).confidence_interval
    return float(found.low), float(found.high)


def test_an_interval_is_that_of_a_paired_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 200)
    tallies = rows("classifier")
    a, b, labels, owners = (tallies["a"].found, tallies["b"].found, tallies["a"].labels, tallies["a"].owners)

    def apart(texts: object) -> float:
        drawn = np.concatenate([np.flatnonzero(owners == text) for text in texts])  # type: ignore[attr-defined]
        first, second = (f1_score(labels[drawn], found[drawn], average="macro", zero_division=0) for found in (a, b))
        return float(first - second)

    macro = metrics_of("classifier", 3)[1]
    found = {(d.name, d.against): d for d in differences(macro, tallies, seed=5)}[("a", "b")]
    assert found.metric is not None
    assert found.metric.value == pytest.approx(apart(np.arange(TEXTS)))
    assert (found.metric.low, found.metric.high) == pytest.approx(by_long_way(apart, np.arange(TEXTS)))
    assert found.metric.low < found.metric.value < found.metric.high  # type: ignore[operator]

    def further(first: object, second: object) -> float:
        return float(np.mean(first) - np.mean(second))  # type: ignore[call-overload]

    away = (tallies["a"].away, tallies["b"].away)
    assert found.distance is not None
    assert (found.distance.low, found.distance.high) == pytest.approx(by_long_way(further, *away))
    assert found.distance.differ == TEXTS
    right = [tallies[name].found != tallies["a"].labels for name in ("a", "b")]
    assert 0 < found.metric.differ <= int((a != b).sum()) <= int((right[0] | right[1]).sum())


def test_tokens_of_a_text_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 200)
    tallies = rows("causal", 6)
    loss = metrics_of("causal", 6)[0]

    def apart(texts: Any) -> float:
        first, second = (
            row.loss[texts].sum() / row.labelled[texts].sum() for row in (tallies["a"], tallies["teacher"])
        )
        return float(first - second)

    found = differences(loss, tallies, seed=5)[0]
    assert found.metric is not None
    assert (found.metric.low, found.metric.high) == pytest.approx(by_long_way(apart, np.arange(TEXTS)))


@pytest.mark.parametrize("kind", ["classifier", "tokens", "multilabel", "scores", "causal", "seq2seq"])
def test_every_pair_and_every_metric_has_an_interval(kind: Kind) -> None:
    for metric in metrics_of(kind, 3):
        tallies = rows(kind)
        found = differences(metric, tallies)
        assert [(d.name, d.against) for d in found] == [("a", "teacher"), ("b", "teacher"), ("a", "b")]
        for difference in found:
            own, other = (metric.value(tallies[name]) for name in (difference.name, difference.against))
            assert own is not None
            assert other is not None
            assert difference.metric is not None
            assert difference.metric.value == pytest.approx(own - other)
            assert difference.metric.low is not None or difference.metric.differ == 0


def test_a_distance_is_that_of_the_scores() -> None:
    tallies = rows("scores", 2)
    found = differences(None, tallies)[0]
    mean = float(((tallies["a"].scores - tallies["a"].expected) ** 2).mean())
    teacher = float(((tallies["teacher"].scores - tallies["teacher"].expected) ** 2).mean())
    assert found.distance is not None
    assert found.distance.value == pytest.approx(mean - teacher)
    assert found.metric is None


def test_the_seed_draws_and_texts_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = metrics_of("classifier", 3)[0]
    found = differences(accuracy, rows("classifier"), seed=1)
    assert found == differences(accuracy, rows("classifier"), seed=1)
    assert found != differences(accuracy, rows("classifier"), seed=2)
    monkeypatch.setattr(module, "_AT_ONCE", 7 * TEXTS)
    assert differences(accuracy, rows("classifier"), seed=1)[0].metric != Interval(0.0, None, None, 0)


def test_where_nothing_differs_nothing_is_claimed() -> None:
    accuracy = metrics_of("classifier", 3)[0]
    one = tallied("classifier", 3)
    none = Interval(0.0, None, None, 0)
    assert differences(accuracy, {"teacher": one, "a": one}) == (Difference("a", "teacher", none, none),)
    # Other classes that are as wrong count as the same in the accuracy.
    wrong = replace(one, away=one.away + 1)
    found = differences(accuracy, {"teacher": one, "a": wrong})[0]
    assert found.metric == none
    assert found.distance is not None
    assert found.distance.low == pytest.approx(1.0)


def test_what_has_no_interval() -> None:
    loss, macro = metrics_of("causal", 6)[0], metrics_of("classifier", 3)[1]
    assert differences(loss, {"teacher": tallied("causal", 6)}) == ()
    single = {name: _first_text(row) for name, row in rows("causal", 6).items()}
    found = differences(loss, single)[0]
    assert found.distance is not None
    assert (found.distance.low, found.distance.high, found.distance.differ) == (None, None, 1)
    assert differences(macro, rows("classifier", labelled=False))[0].metric is None
    # A correlation is undefined in a few resamples, which do no harm.
    order = metrics_of("scores", 1)[1]
    drawn = {name: _few_texts(row) for name, row in rows("scores", 1).items()}
    alone = differences(order, drawn)[0].metric
    assert alone is not None
    assert alone.low is not None
    # One text with a label is missing from many resamples.
    few = {name: _one_label(row) for name, row in rows("classifier").items()}
    found = differences(macro, few | {"a": replace(few["a"], found=1 - few["teacher"].labels)})[0]
    assert found.metric is not None
    assert (found.metric.low, found.metric.high) == (None, None)


def _first_text(row: Tally) -> Tally:
    names = ("samples", "away", "alike", "labelled", "right", "loss")
    return replace(row, **{name: getattr(row, name)[1:2] for name in names})


def _few_texts(row: Tally) -> Tally:
    """Labels of two kinds, so that all drawn are the same in one of about a thousand resamples."""
    return replace(row, labels=np.where(row.owners[:, None] < 6, 0.0, 1.0))


def _one_label(row: Tally) -> Tally:
    return replace(
        row, owners=row.owners[:1], found=row.found[:1], labels=row.labels[:1], labelled=1.0 * (np.arange(TEXTS) == 0)
    )
