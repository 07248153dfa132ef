"""Scores on texts, as the commands that measure them show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptzip.distillation.evaluation import Evaluation

ROWS = {"none": "no adapter", "teacher": "teacher", "fitted": "fitted", "distilled": "distilled"}
"""Rows of a distillation's report, in their order, and their names for people."""


def head(found: Evaluation) -> list[str]:
    """Heads of the columns of `cells`."""
    distances = ["1 - cosine"] if found.kind == "encoder" else ["KL", "agreement"]
    return [*distances, *([] if found.metric is None else [found.metric, "gain"])]


def cells(found: Evaluation, name: str) -> list[str]:
    """One row's scores."""
    score = found.rows[name]
    row = [figure(score.cosine)] if found.kind == "encoder" else [figure(score.kl), _share(score.agreement)]
    if found.metric is not None:
        row += [_share(score.metric) if found.metric == "accuracy" else figure(score.metric)]
        row += [_share(found.gain(name))]
    return row


def figure(value: float | None) -> str:
    """A number for a table."""
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
