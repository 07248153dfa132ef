"""Metrics of many resamples at once, from what counts of each text and how often each text is there.

Columns are (texts, any) and weights (resamples, texts); what comes of them is (resamples,), NaN where it is undefined.
They are what scikit-learn and scipy say of the data with each text repeated, but for thousands of resamples at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.reports.measures.tallies import Numbers

_ROUNDING = 1e-12
"""Of a variance, by the square of its mean: below it all values are the same."""


def ratio(columns: Any, weights: Numbers) -> Numbers:
    """Sum of the first column by that of the second."""
    above, below = (weights @ columns).T
    return _divided(above, below)


def summed_f1(columns: Any, weights: Numbers) -> Numbers:
    """F1 of all decisions together; columns: rightly chosen, chosen, there of each class, in blocks."""
    right, chosen, there = (block.sum(1) for block in _blocks(columns, weights))
    return _divided(2 * right, chosen + there, none=0.0)


def class_f1(columns: Any, weights: Numbers) -> Numbers:
    """F1 of class 1, of the same columns."""
    right, chosen, there = _blocks(columns, weights)
    found = _divided(2 * right[:, 1], chosen[:, 1] + there[:, 1], none=0.0)
    return np.where(there.any(1), found, np.nan)


def mean_f1(columns: Any, weights: Numbers, *, present: bool) -> Numbers:
    """Mean of the classes' F1, of the same columns: of those that are there or chosen if `present`, else of all."""
    right, chosen, there = _blocks(columns, weights)
    either = chosen + there
    counted = (either > 0).sum(1) if present else np.full(len(either), either.shape[1])
    return _divided(_divided(2 * right, either, none=0.0).sum(1), counted.astype(np.float64))


def class_mcc(columns: Any, weights: Numbers) -> Numbers:
    """Matthews' correlation coefficient of rows with one class each, of the same columns; 0 where one is constant."""
    right, chosen, there = _blocks(columns, weights)
    total = there.sum(1)
    both = right.sum(1) * total - (chosen * there).sum(1)
    spread = (total**2 - (chosen**2).sum(1)) * (total**2 - (there**2).sum(1))
    return np.where(total > 0, _divided(both, np.sqrt(spread), none=0.0), np.nan)


def correlated(columns: Any, weights: Numbers, *, ranked: bool) -> Numbers:
    """Pearson's or Spearman's correlation, in the mean over outputs; columns: outputs, labels, whether there are."""
    outputs = columns.shape[1] // 2
    known = columns[:, -1] > 0
    # Each text's weights lie together, as texts are put in order.
    weights, columns = np.ascontiguousarray(weights[:, known].T), columns[known]
    found = [_correlated(columns[:, i], columns[:, outputs + i], weights, ranked) for i in range(outputs)]
    return np.asarray(np.mean(found, axis=0))


def _correlated(first: Numbers, second: Numbers, weights: Numbers, ranked: bool) -> Numbers:
    """Of values (texts,) and weights (texts, resamples)."""
    total = weights.sum(0)
    a, b = (_ranks(one, weights) if ranked else (one - one.mean())[:, None] for one in (first, second))
    x, y = _sum(weights, a) / total, _sum(weights, b) / total
    shared, own, other = (_sum(weights, u * v) / total - m for u, v, m in ((a, b, x * y), (a, a, x * x), (b, b, y * y)))
    varied = (own > _ROUNDING * x * x) & (other > _ROUNDING * y * y)
    return np.where(varied, _divided(shared, np.sqrt(np.where(varied, own * other, 0.0))), np.nan)


def _sum(weights: Numbers, values: Numbers) -> Numbers:
    """Sums of values (texts, resamples) or (texts, 1) in each resample."""
    if values.shape[1] == 1:
        return np.asarray(values[:, 0] @ weights)
    return np.asarray(np.einsum("ij,ij->j", weights, values))


def _ranks(values: Numbers, weights: Numbers) -> Numbers:
    """Ranks of the values (texts,) within each resample, about 0, (texts, resamples); equal ones share their mean."""
    order = np.argsort(values, kind="stable")
    ordered, held = values[order], weights[order]
    reached = np.cumsum(held, 0)
    middle = reached - held / 2
    if np.any(ordered[1:] == ordered[:-1]):
        first, last = (np.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
        middle = ((reached - held)[first] + reached[last - 1]) / 2
    ranks = np.empty_like(weights)
    ranks[order] = middle - reached[-1] / 2
    return ranks


def _blocks(columns: Any, weights: Numbers) -> Numbers:
    """Rightly chosen, chosen and there: (3, resamples, classes)."""
    counts = np.asarray(weights @ columns)
    return np.stack(np.split(counts, 3, axis=1))


def _divided(above: Numbers, below: Numbers, none: float = np.nan) -> Numbers:
    return np.divide(above, below, out=np.full_like(above, none), where=below != 0)
