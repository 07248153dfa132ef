"""What a check of a merged model says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from adaptzip.core.showing import Shown
from adaptzip.core.words import count

Verdict = Literal["exact", "close", "no"]
Kind = Literal["module", "extra", "unchanged"]
Reason = Literal[
    "", "unmerged", "twice", "subtracted", "scale", "altered", "rounding", "other base", "other", "shape", "missing",
    "unexpected",
]  # fmt: skip


@dataclass(frozen=True)
class TensorCheck:
    """One tensor of the merged model.

    Attributes:
        name: its name in the base.
        kind: "module" where an update is added to it, "extra" where something else is done, else "unchanged".
        verdict: "exact" if it is what was expected bit for bit, "close" if within the last places, else "no".
        rule: the rule of rounding that comes nearest; None for what is not changed.
        numbers, differing: how many it has, and how many are not the expected ones bit for bit.
        ulps: the largest difference in units of the last place of the stored dtype; None where there is none to tell.
        relative_error: the difference as a share of the adapter's change; None where it makes none.
        scale: how often the update is in it, by least squares; None where it was not measured.
        reason: the nearest explanation of a "no", a key.
        why: the same in words.
    """

    name: str
    kind: Kind
    verdict: Verdict
    rule: str | None = None
    numbers: int = 0
    differing: int = 0
    ulps: float | None = None
    relative_error: float | None = None
    scale: float | None = None
    reason: Reason = ""
    why: str = ""


@dataclass(frozen=True, repr=False)
class CheckReport(Shown):
    """Whether a merged model is its base plus an adapter.

    Attributes:
        path: the merged model's folder.
        verdict: "exact" if every tensor is what was expected bit for bit, "close" if the rest is within the last
            places, else "no".
        rule: the one rule of rounding under which all changed tensors are exact; None where there is none.
        meaning: the same in words.
        max_ulps: the most units of the last place that were accepted.
        tensors: every tensor that the adapter changes, and of the others those that are not the base's.
        unchanged: how many others there are, which are the base's.
        left_out: tensors of the base that the merged model lacks and does not need.
        config: what differs in config.json, a line each; this decides nothing.
        notes: what else should be known, a line each.
        explanation: the nearest explanation of a "no"; "" otherwise.
    """

    path: Path
    verdict: Verdict
    rule: str | None
    meaning: str
    max_ulps: float
    tensors: tuple[TensorCheck, ...]
    unchanged: int
    left_out: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    explanation: str = ""

    def _told(self) -> Iterator[str]:
        yield self.verdict
        yield self.explanation or (self.rule or "")
        yield f"{count(len(self.tensors), 'tensor')} changed"
        yield f"{self.unchanged:,} unchanged"

    @property
    def passed(self) -> bool:
        """Whether the check said yes."""
        return self.verdict != "no"

    @property
    def ulps(self) -> float:
        """The largest difference of all tensors in units of the last place."""
        return max((tensor.ulps for tensor in self.tensors if tensor.ulps is not None), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "path": str(self.path),
            "passed": self.passed,
            "verdict": self.verdict,
            "rule": self.rule,
            "ulps": self.ulps,
            "max_ulps": self.max_ulps,
            "explanation": self.explanation or None,
            "tensors": [
                asdict(tensor) | {"reason": tensor.reason or None, "why": tensor.why or None} for tensor in self.tensors
            ],
            "unchanged": self.unchanged,
            "left_out": list(self.left_out),
            "config": list(self.config),
            "notes": list(self.notes),
        }
