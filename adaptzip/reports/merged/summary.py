"""One sentence about all the tensors that are not what they should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from adaptzip.reports.merged.report import Reason, TensorCheck

_OF_ALL: dict[Reason, str] = {
    "unmerged": "the adapter is not merged: all that it changes is as in the base",
    "twice": "the adapter is merged twice",
    "subtracted": "the adapter is taken away instead of added",
    "other": "it is a merge of another adapter or of more than these, or none of this base",
    "other base": "it is a merge into another base",
}
_ORDER: tuple[Reason, ...] = (
    "missing", "unexpected", "shape", "scale", "twice", "subtracted", "unmerged", "other", "other base", "rounding",
    "altered",
)  # fmt: skip


def explain(rows: Sequence[TensorCheck], unchanged: int) -> str:
    """The nearest explanation of all that failed.

    Args:
        rows: every tensor that the adapter changes, and the others that failed; at least one of them failed.
        unchanged: how many others there are.
    """
    failed = [row for row in rows if row.verdict == "no"]
    strange = sum(row.kind == "unchanged" and row.reason == "other base" for row in failed)
    if strange > max(1, unchanged):
        return f"{_OF_ALL['other base']}: {strange} tensors that the adapter leaves alone are not this one's"
    reasons = Counter(row.reason for row in failed)
    modules = [row for row in rows if row.kind == "module"]
    shared = {row.reason for row in modules}
    if modules and len(shared) == 1 and (one := shared.pop()) in _OF_ALL and reasons.keys() <= {one, "altered"}:
        return _OF_ALL[one]
    if modules and all(row.reason in ("scale", "twice", "subtracted") for row in modules):
        return f"the updates are merged at about {median(row.scale or 0.0 for row in modules):.3g} times the scale"
    worst = min(failed, key=lambda row: _ORDER.index(row.reason))
    others = len(failed) - 1
    more = "" if not others else f", and {others} other tensor{'' if others == 1 else 's'} of {len(rows)} that count"
    return f"{worst.name}: {worst.why}{more}"
