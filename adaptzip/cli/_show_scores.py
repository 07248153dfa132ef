"""Scores on texts, as the commands that measure them show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptzip.distillation.evaluation import Evaluation

ROWS = {"none": "no adapter", "teacher": "teacher", "fitted": "fitted", "distilled": "distilled"}
"""Rows of a distillation's report, in their order, and their names for people."""

_DISTANCES = {"encoder": ["1 - cosine"], "scores": ["squared error", "rank correlation"]}
"""Columns beside the teacher, of kinds that put out no distributions."""


def head(found: Evaluation) -> list[str]:
    """Heads of the columns of `cells`."""
    distances = _DISTANCES.get(found.kind, ["KL", "agreement"])
    if found.metric is None:
        return distances
    # Of scores, both the distance and the metric are squared errors.
    measured = [name for name in (found.metric, found.second) if name is not None]
    measured = [f"{name} to labels" for name in measured] if found.kind == "scores" else measured
    return [*distances, *measured, "gain"]


def cells(found: Evaluation, name: str) -> list[str]:
    """One row's scores."""
    score = found.rows[name]
    if found.kind == "encoder":
        row = [figure(score.cosine)]
    elif found.kind == "scores":
        row = [figure(score.squared_error), figure(score.rank_correlation)]
    else:
        row = [figure(score.kl), _share(score.agreement)]
    if found.metric is not None:
        shown = _share if found.metric in ("accuracy", "F1") else figure
        row += [shown(score.metric), *([] if found.second is None else [shown(score.second)]), _share(found.gain(name))]
    return row


def figure(value: float | None) -> str:
    """A number for a table."""
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
