"""Adapters side by side: what an evaluation comes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from adaptzip.core.showing import Shown
from adaptzip.core.training_report import share_kept
from adaptzip.core.words import count, number
from adaptzip.models.kinds import Kind
from adaptzip.reports.measures.differences import Difference
from adaptzip.reports.measures.metrics import metric_name, second_metric_name
from adaptzip.reports.scores import Score
from adaptzip.reports.sizes import Sizes

NOTHING = "no adapter"
"""The row of the update zero, with the teacher's extras kept."""
TEACHER = "teacher"
"""The teacher's row."""


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Adapters side by side.

    Attributes:
        kind: what the model is for.
        metric: what `Score.metric` is: the one chosen, else "accuracy", "loss", "F1" or "squared error"; None where
            the data has no labels or the model takes none.
        rows: scores by name, first of "no adapter" and "teacher".
        bytes: of the file, by name; None where it is not known.
        samples: distributions or embeddings compared.
        sizes: more about the files, by name, where they are known.
        texts: how many were looked at.
        metrics: all metrics of each row by their names, None where undefined; without scikit-learn F1, macro F1 and
            MCC of classes are left out. Empty without labels.
        differences: of each adapter from the teacher, then of each two, with intervals.
    """

    kind: Kind
    metric: str | None
    rows: Mapping[str, Score]
    bytes: Mapping[str, int | None]
    samples: int
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    texts: int = 0
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    differences: Sequence[Difference] = ()

    def _told(self) -> Iterator[str]:
        yield self.kind
        yield count(self.texts, "text")
        for name in self.rows:
            if name not in (NOTHING, TEACHER):
                gain, distance = self.gain(name), self.rows[name].distance
                kept = "" if gain is None else f" keeps {100 * gain:.3g} % of the gain"
                yield f"{name}{kept or ('' if distance is None else f' {number(distance)} from the teacher')}"

    def _rows(self) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
        rows = (
            (name, *("" if value is None else number(value) for value in (row.distance, row.agreement, row.metric)))
            for name, row in self.rows.items()
        )
        return ("", "from the teacher", "agreement", self.metric or "metric"), rows

    @property
    def second(self) -> str | None:
        """What `Score.second` is: "macro F1" or "rank correlation"; None where there is none or a metric is chosen."""
        main = self.metric is not None and self.metric == metric_name(self.kind)
        return second_metric_name(self.kind) if main else None

    def gain(self, name: str) -> float | None:
        """Share of the teacher's improvement that is kept (`share_kept`); None without a metric to tell it by."""
        if self.metric is None:
            return None
        return share_kept(self.metric, *(self.rows[row].metric for row in (NOTHING, TEACHER, name)))

    def with_sizes(self, sizes: Mapping[str, Sizes]) -> Evaluation:
        """The same with sizes of files, by name."""
        return replace(self, bytes={**self.bytes, **{name: s.bytes for name, s in sizes.items()}}, sizes=sizes)

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as JSON values."""
        return {
            "kind": self.kind,
            "metric": self.metric,
            "second": self.second,
            "samples": self.samples,
            "rows": [self._row(name) for name in self.rows],
            "differences": [asdict(difference) for difference in self.differences],
        }

    def _row(self, name: str) -> dict[str, Any]:
        sizes = self.sizes.get(name)
        return {
            "name": name,
            "method": sizes.method if sizes else None,
            "bytes": self.bytes[name],
            "update_bytes": sizes.update_bytes if sizes else None,
            **asdict(self.rows[name]),
            "gain": self.gain(name),
            "metrics": dict(self.metrics.get(name, {})),
        }
