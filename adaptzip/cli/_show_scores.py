"""Scores on texts, as the commands that measure them show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptzip.cli import _text as text
from adaptzip.core.training_report import IN_PER_CENT

if TYPE_CHECKING:
    from adaptzip.reports.evaluation import Evaluation
    from adaptzip.reports.measures.differences import Difference, Interval

ROWS = {"none": "no adapter", "teacher": "teacher", "fitted": "fitted", "distilled": "distilled"}
"""Rows of a distillation's report, in their order, and their names for people."""

_DISTANCES = {"encoder": ["1 - cosine"], "scores": ["squared error", "rank correlation"]}
"""Columns beside the teacher, of kinds that put out no distributions."""
_MOST_DIFFERENCES = 10
"""That are shown of more than these, unless all are asked for, are those from the teacher alone."""


def head(found: Evaluation) -> list[str]:
    """Heads of the columns of `cells`."""
    distances = _DISTANCES.get(found.kind, ["KL", "agreement"])
    if found.metric is None:
        return distances
    measured = [_to_labels(found, name) for name in (found.metric, found.second) if name is not None]
    return [*distances, *measured, "gain"]


def cells(found: Evaluation, name: str) -> list[str]:
    """One row's scores."""
    score = found.rows[name]
    if found.kind == "encoder":
        row = [figure(score.cosine)]
    elif found.kind == "scores":
        row = [figure(score.squared_error), figure(score.rank_correlation)]
    else:
        row = [figure(score.kl), share(score.agreement)]
    if found.metric is not None:
        second = [] if found.second is None else [measured(found.metric, score.second)]
        row += [measured(found.metric, score.metric), *second, share(found.gain(name))]
    return row


def differences(found: Evaluation, *, every: bool = False) -> str:
    """The table of differences with their intervals; with many adapters those from the teacher alone, unless `every`.

    "" where there is none.
    """
    from adaptzip.reports.measures.differences import RESAMPLES

    if not found.differences:
        return ""
    shown = list(found.differences)
    if not every and len(shown) > _MOST_DIFFERENCES:
        teacher = shown[0].against
        shown = [difference for difference in shown if difference.against == teacher]
    head = ["adapter", "against", _DISTANCES.get(found.kind, ["KL"])[0], "95 %"]
    if found.metric is not None:
        head += [_to_labels(found, found.metric), "95 %"]
    lines = [text.table([_difference(found, one) for one in shown], head=head)]
    lines.append(f"95 % intervals by {RESAMPLES:,} resamples of the texts")
    left = len(found.differences) - len(shown)
    if left:
        lines[-1] += f"; {text.count(left, 'difference')} of two adapters with --verbose or --json"
    return "\n".join(lines)


def _difference(found: Evaluation, difference: Difference) -> list[str]:
    row = [difference.name, difference.against, *_interval(difference.distance, percent=False)]
    if found.metric is not None:
        row += _interval(difference.metric, percent=found.metric in IN_PER_CENT)
    return row


def _interval(interval: Interval | None, *, percent: bool) -> list[str]:
    """A difference, and its interval."""
    if interval is None:
        return ["-", "-"]
    value = f"{100 * interval.value:+z.1f} %" if percent else f"{interval.value:+z.3g}"
    if interval.low is None or interval.high is None:
        return [value, "-" if interval.differ else "none differs"]
    if percent:
        return [value, f"{100 * interval.low:+z.1f} to {100 * interval.high:+z.1f} %"]
    return [value, f"{interval.low:+z.3g} to {interval.high:+z.3g}"]


def _to_labels(found: Evaluation, metric: str) -> str:
    """A metric's column; of scores, both the distance and the metric are squared errors."""
    return f"{metric} to labels" if found.kind == "scores" else metric


def figure(value: float | None) -> str:
    """A number for a table."""
    return "-" if value is None else f"{value:z.4g}"


def measured(metric: str | None, value: float | None) -> str:
    """A metric's value, in per cent where it is a share."""
    return share(value) if metric in IN_PER_CENT else figure(value)


def share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:z.1f} %"
