"""Whether one adapter does as well as another: differences, and between what they are when other texts are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from adaptzip.reports.measures.metrics import Columns, Metric
from adaptzip.reports.measures.resampled import ratio
from adaptzip.reports.measures.tallies import Numbers, Tally

RESAMPLES = 2000
"""Of the texts, that an interval is told by."""
LEVEL = 0.95
"""Share of the resamples that are within it."""
_AT_ONCE = 2**18
"""Weights of texts that are in memory at a time."""


@dataclass(frozen=True)
class Interval:
    """A difference, and between what it lies for 95 % of the resamples of the texts.

    Attributes:
        value: on the texts that there are.
        low, high: the interval's ends; None where none of the texts differs, where there is but one, and where the
            difference is undefined in so many resamples that it could be anything.
        differ: texts on which the two differ.
    """

    value: float
    low: float | None
    high: float | None
    differ: int


@dataclass(frozen=True)
class Difference:
    """What one adapter has more than another.

    Attributes:
        name, against: of the rows; what the second has is subtracted from what the first has.
        metric: of the metric; None without labels, and where one of the two has none.
        distance: of the distance from the teacher, which the teacher itself has none of.
    """

    name: str
    against: str
    metric: Interval | None
    distance: Interval | None


@dataclass(frozen=True)
class _Measure:
    """What is resampled, by row: what counts of each text, and the value on the texts that there are."""

    columns: Mapping[str, Columns]
    values: Mapping[str, float | None]
    resampled: Callable[[Columns, Numbers], Numbers]


def differences(metric: Metric | None, rows: Mapping[str, Tally], seed: int = 0) -> tuple[Difference, ...]:
    """What each row has more than the first one, then what each has more than those after it, with intervals.

    Texts are drawn with replacement, as many as there are, the same ones for all rows: a paired bootstrap, with the
    percentiles of `RESAMPLES` draws. All tokens of a text go together.

    Args:
        metric: what the rows are measured by against labels, if there are some.
        rows: by name, the teacher first; all of the same texts.
    """
    names = list(rows)
    pairs = [(name, names[0]) for name in names[1:]] + list(combinations(names[1:], 2))
    if not pairs:
        return ()
    measures = [_distances(rows)] if metric is None else [_distances(rows), _measured(metric, rows)]
    low, high = _bounds(measures, pairs, rows[names[0]].texts, seed)
    found = []
    for place, pair in enumerate(pairs):
        told = [_interval(m, pair, low[i, place], high[i, place]) for i, m in enumerate(measures)]
        found.append(Difference(*pair, distance=told[0], metric=told[1] if metric is not None else None))
    return tuple(found)


def _distances(rows: Mapping[str, Tally]) -> _Measure:
    # The squared error is that of each score, of which a text may have several.
    parts = {name: row.width if row.kind == "scores" else 1 for name, row in rows.items()}
    columns = {name: np.stack([row.away, row.samples * parts[name]], 1) for name, row in rows.items()}
    return _Measure(columns, {name: float(c[:, 0].sum() / c[:, 1].sum()) for name, c in columns.items()}, ratio)


def _measured(metric: Metric, rows: Mapping[str, Tally]) -> _Measure:
    columns = {name: metric.columns(row) for name, row in rows.items()}
    return _Measure(columns, {name: metric.value(row) for name, row in rows.items()}, metric.resampled)


def _bounds(
    measures: Sequence[_Measure], pairs: Sequence[tuple[str, str]], texts: int, seed: int
) -> tuple[Numbers, Numbers]:
    """Ends of the intervals, (measures, pairs) each; not finite where there is none."""
    if texts < 2:
        nothing = np.full((len(measures), len(pairs)), np.nan)
        return nothing, nothing

    def statistic(drawn: NDArray[np.int64], axis: int) -> Numbers:
        """(measures, pairs, draws) of the texts drawn, (draws, texts)."""
        weights = _weights(drawn)
        found = []
        for measure in measures:
            values = {name: measure.resampled(columns, weights) for name, columns in measure.columns.items()}
            found.append([values[name] - values[against] for name, against in pairs])
        return np.array(found)

    with warnings.catch_warnings():
        # scipy has no interval for what is undefined in a resample, which it warns of.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        drawn = bootstrap(
            (np.arange(texts),), statistic, paired=True, vectorized=True, method="percentile",
            n_resamples=RESAMPLES, batch=max(1, min(RESAMPLES, _AT_ONCE // texts)),
            random_state=np.random.default_rng(seed),
        ).bootstrap_distribution  # fmt: skip
    return _end(drawn, (1 - LEVEL) / 2, -np.inf), _end(drawn, (1 + LEVEL) / 2, np.inf)


def _end(drawn: Numbers, share: float, undefined: float) -> Numbers:
    """A percentile of the resamples, where those in which a difference is undefined count as the worst."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.quantile(np.where(np.isnan(drawn), undefined, drawn), share, axis=-1))


def _weights(drawn: NDArray[np.int64]) -> Numbers:
    """How often each text was drawn, (draws, texts)."""
    draws, texts = drawn.shape
    places = drawn + texts * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * texts).reshape(draws, texts).astype(np.float64)


def _interval(measure: _Measure, pair: tuple[str, str], low: float, high: float) -> Interval | None:
    first, second = (measure.values[name] for name in pair)
    if first is None or second is None:
        return None
    apart = measure.columns[pair[0]] != measure.columns[pair[1]]
    differ = int(np.count_nonzero(apart.sum(axis=1)))
    told = differ > 0 and isfinite(low) and isfinite(high)
    # Not -0.0.
    return Interval(
        first - second + 0.0, float(low) + 0.0 if told else None, float(high) + 0.0 if told else None, differ
    )
