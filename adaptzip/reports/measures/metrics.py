"""What models are measured by against labels, on the whole data and on resamples of its texts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import pearsonr, spearmanr

from adaptzip.errors import RefusedError, UsageError
from adaptzip.models.kinds import Kind
from adaptzip.reports.measures.resampled import class_f1, class_mcc, correlated, mean_f1, ratio, summed_f1
from adaptzip.reports.measures.tallies import Numbers, Tally

Columns: TypeAlias = Any
"""What a metric counts of each text, (texts, any) float64: numpy's array or scipy's sparse one."""
Correlate: TypeAlias = Callable[[Numbers, Numbers], Any]


_OTHER_NAMES: Mapping[str, str] = {"spearman": "rank correlation", "pearson": "correlation", "micro f1": "f1"}
"""What metrics are called as well."""


@dataclass(frozen=True)
class Metric:
    """A way to hold what a model says against the labels.

    Attributes:
        name: what it is called in tables and JSON.
        columns: of a tally, what counts of each text.
        resampled: of these and weights (resamples, texts), which are how often each text is there, the metric of each
            resample (resamples,); NaN where it is undefined.
        library: the metric of the whole data, as a library has it; None where `resampled` has the word.
        extra: whether that library is scikit-learn.
    """

    name: str
    columns: Callable[[Tally], Columns]
    resampled: Callable[[Columns, Numbers], Numbers]
    library: Callable[[Tally], float] | None = None
    extra: bool = False

    def value(self, tally: Tally) -> float | None:
        """The metric of the whole data; None where it is undefined, as without labels."""
        if not tally.labelled.any():
            return None
        if self.library is not None:
            found = self.library(tally)
        else:
            found = float(self.resampled(self.columns(tally), np.ones((1, tally.texts)))[0])
        return found + 0.0 if isfinite(found) else None


def metrics_of(kind: Kind, width: int) -> tuple[Metric, ...]:
    """The metrics of a kind of model that puts out so many numbers a row, the main one first; () for an encoder."""
    found = _METRICS.get(kind, ())
    return tuple(metric for metric in found if metric is not _F1 or width == 2)


def metric_name(kind: Kind) -> str | None:
    """The main metric of a kind of model, such as "accuracy"; None for an encoder."""
    return _METRICS[kind][0].name if kind in _METRICS else None


def second_metric_name(kind: Kind) -> str | None:
    """The metric that is shown beside the main one; None where there is none."""
    return _METRICS[kind][1].name if kind in ("multilabel", "scores") else None


def settled_name(word: str) -> str:
    """A metric's name from how it may be written: `macro-f1` for "macro F1".

    Raises:
        UsageError: if there is none of this name.
    """
    names = {metric.name: None for metrics in _METRICS.values() for metric in metrics}
    plain = word.casefold().replace("-", " ").replace("_", " ")
    plain = _OTHER_NAMES.get(plain, plain)
    found = next((name for name in names if name.casefold() == plain), None)
    if found is None:
        known = ", ".join(name.casefold().replace(" ", "-") for name in names)
        raise UsageError(f"there is no metric {word!r}", hint=f"name one of {known}")
    return found


def chosen_metric(name: str, kind: Kind, width: int) -> Metric:
    """A kind's metric by its name.

    Raises:
        UsageError: if it is none of this kind.
        RefusedError: if it needs scikit-learn, which is missing.
    """
    if name == _F1.name and kind in ("classifier", "tokens") and width != 2:
        raise UsageError(f"F1 is that of the second of two classes, the model has {width}", hint="take macro-f1 or mcc")
    of_kind = metrics_of(kind, width)
    found = next((metric for metric in of_kind if metric.name == name), None)
    if found is None:
        known = ", ".join(metric.name.casefold().replace(" ", "-") for metric in of_kind)
        raise UsageError(
            f"a model for {kind} is not measured by {name}", hint=f"name one of {known}" if known else "drop `metric=`"
        )
    if found.extra:
        import_sklearn_metrics()
    return found


def values_of(tally: Tally) -> dict[str, float | None]:
    """All metrics by name; without scikit-learn those that it computes are left out. {} without labels."""
    if not tally.labelled.any():
        return {}
    found = metrics_of(tally.kind, tally.width)
    if any(metric.extra for metric in found):
        try:
            import_sklearn_metrics()
        except RefusedError:
            found = tuple(metric for metric in found if not metric.extra)
    return {metric.name: metric.value(tally) for metric in found}


def import_sklearn_metrics() -> Any:
    """The module.

    Raises:
        RefusedError: if scikit-learn is missing.
    """
    try:
        import sklearn.metrics
    except ImportError as error:
        raise RefusedError(
            "F1, macro F1 and MCC of classes need the package scikit-learn", hint="pip install 'adaptzip[metrics]'"
        ) from error
    return sklearn.metrics


def correlation(of: Correlate, first: Numbers, second: Numbers) -> float | None:
    """scipy's `spearmanr` or `pearsonr` of the columns of (rows, outputs) in the mean; None where one is constant."""
    columns = list(zip(first.T, second.T, strict=True))
    if len(first) < 2 or any(np.ptp(column) == 0 for pair in columns for column in pair):
        return None
    mean = float(np.mean([of(a, b).statistic for a, b in columns]))
    return mean if isfinite(mean) else None


def _correlation(of: Correlate, tally: Tally) -> float:
    found = correlation(of, tally.found.astype(np.float64), tally.labels.astype(np.float64))
    return float("nan") if found is None else found


def _sklearn(function: str, tally: Tally, **options: Any) -> float:
    with warnings.catch_warnings(action="ignore"):
        # Of what sklearn says 0 of, since a class is neither there nor chosen, it also warns.
        return float(getattr(import_sklearn_metrics(), function)(tally.labels, tally.found, **options))


def _shares(tally: Tally) -> Columns:
    return np.stack([tally.right, tally.labelled], 1)


def _losses(tally: Tally) -> Columns:
    return np.stack([tally.loss, tally.labelled], 1)


def _whole_texts(tally: Tally) -> Columns:
    """Texts all of whose labelled rows are right, and texts that have some."""
    there = tally.labelled > 0
    return np.stack([there & (tally.right == tally.labelled), there], 1).astype(np.float64)


def _squares(tally: Tally) -> Columns:
    found = np.zeros((tally.texts, 2))
    error = (tally.found.astype(np.float64) - tally.labels.astype(np.float64)) ** 2
    found[tally.owners] = np.stack([error.sum(1), np.full(len(error), tally.width)], 1)
    return found


def _pairs(tally: Tally) -> Columns:
    """Scores, labels, and 1 where there are some, (texts, 2 width + 1)."""
    found = np.zeros((tally.texts, 2 * tally.width + 1))
    found[tally.owners] = np.concatenate([tally.found, tally.labels, np.ones((len(tally.owners), 1))], 1)
    return found


def _decisions(tally: Tally) -> Columns:
    """Of each class: rightly chosen, chosen, there; (texts, 3 width), blocks side by side."""
    found = np.zeros((tally.texts, 3 * tally.width))
    both = tally.found.astype(bool) & tally.labels.astype(bool)
    found[tally.owners] = np.concatenate([both, tally.found, tally.labels], 1)
    return found


def _classes(tally: Tally) -> Columns:
    """The same of rows with one class each, which may be several a text, sparse."""
    right = tally.found == tally.labels
    owners = np.concatenate([tally.owners[right], tally.owners, tally.owners])
    chosen, there = tally.found.astype(np.int64), tally.labels.astype(np.int64)
    places = np.concatenate([chosen[right], tally.width + chosen, 2 * tally.width + there])
    return csr_array((np.ones(len(owners)), (owners, places)), shape=(tally.texts, 3 * tally.width))


_LOSS = Metric("loss", _losses, ratio)
_SQUARED_ERROR = Metric("squared error", _squares, ratio)
_F1 = Metric(
    "F1", _classes, class_f1, library=partial(_sklearn, "f1_score", pos_label=1, zero_division=0), extra=True
)  # fmt: skip
_EXACT = Metric("exact match", _whole_texts, ratio)
_OF_CLASSES = (
    Metric("accuracy", _shares, ratio),
    _F1,
    Metric(
        "macro F1", _classes, partial(mean_f1, present=True), extra=True,
        library=partial(_sklearn, "f1_score", average="macro", zero_division=0),
    ),
    Metric("MCC", _classes, class_mcc, library=partial(_sklearn, "matthews_corrcoef"), extra=True),
)  # fmt: skip
_METRICS: Mapping[Kind, tuple[Metric, ...]] = {
    "classifier": _OF_CLASSES,
    "tokens": _OF_CLASSES,
    "multilabel": (
        Metric("F1", _decisions, summed_f1),
        Metric("macro F1", _decisions, partial(mean_f1, present=False)),
        _EXACT,
    ),
    "scores": (
        _SQUARED_ERROR,
        Metric("rank correlation", _pairs, partial(correlated, ranked=True), library=partial(_correlation, spearmanr)),
        Metric("correlation", _pairs, partial(correlated, ranked=False), library=partial(_correlation, pearsonr)),
    ),
    "causal": (_LOSS, _EXACT),
    "seq2seq": (_LOSS, _EXACT),
}
