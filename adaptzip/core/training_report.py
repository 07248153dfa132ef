"""What training says of a file whose tensors were trained."""

from __future__ import annotations

from dataclasses import dataclass

Figures = tuple[float | None, float | None, float | None]
"""Distance to the teacher (KL in nats; for an encoder 1 - cosine, for scores the squared error), share of equal
decisions, and the metric."""


FALLING = ("loss", "squared error")
"""Metrics of which less is better."""
IN_PER_CENT = ("accuracy", "F1", "macro F1", "exact match")
"""Metrics that are shares, and shown as such."""


ROWS_IN_WORDS = {
    "none": "no adapter", "teacher": "the source", "fitted": "before training", "distilled": "this file",
}  # fmt: skip
"""What the rows of a report are called beside the file that it is in."""


def share_kept(metric: str, nothing: float | None, teacher: float | None, own: float | None) -> float | None:
    """Share of the teacher's improvement over no adapter that is kept.

    None where one of the three is missing, and where the teacher is no better than no adapter.
    """
    if nothing is None or teacher is None or own is None:
        return None
    sign = -1 if metric in FALLING else 1
    gained = sign * (teacher - nothing)
    # Not -0.0.
    return sign * (own - nothing) / gained + 0.0 if gained > 0 else None


@dataclass(frozen=True)
class TrainingReport:
    """What training, and texts that were kept from it, said of a file whose tensors were trained.

    Attributes:
        texts, held_out: how many texts were trained on, and how many were not.
        step: the update that the file was made after.
        steps: updates made.
        metric: what labels measured, "accuracy", "loss", "F1" or "squared error"; None without labels.
        none, teacher, fitted, distilled: on the texts held out, of no update, the teacher, what training started from,
            and the file.
    """

    texts: int
    held_out: int
    step: int
    steps: int
    metric: str | None
    none: Figures
    teacher: Figures
    fitted: Figures
    distilled: Figures

    @property
    def rows(self) -> dict[str, Figures]:
        """The figures by their names."""
        return {"none": self.none, "teacher": self.teacher, "fitted": self.fitted, "distilled": self.distilled}

    def gain(self, name: str) -> float | None:
        """Share of the teacher's improvement that a row keeps, by the metric (`share_kept`)."""
        own = self.rows[name][-1]
        return None if self.metric is None else share_kept(self.metric, self.none[-1], self.teacher[-1], own)
