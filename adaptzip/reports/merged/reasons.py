"""The nearest explanation of a tensor that is not what it should be, by what is cheap to measure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.reports.merged.numbers import Tally
from adaptzip.reports.merged.report import Reason
from adaptzip.restoring.merging.edits import Edit

_FEW = 0.01
"""Up to this share of differing numbers, it is they that are wrong and not the merge."""
_ALONG = 0.5
"""A difference is a multiple of the update if the rest is at most this share of it."""
_NEAR = 0.1
"""How far a scale may be from 1, 2 or -1 to be taken for it."""
_SIGMAS = 6.0


@dataclass(frozen=True)
class Fit:
    """How much of an update lies between a base's tensor and the merged model's.

    Attributes:
        numbers: how many there are.
        scale: how often the update is in the difference, by least squares.
        rest: what it does not explain, as a share of the difference.
        same: whether there is no difference.
        deviation: how far the scale may be off by chance.
    """

    numbers: int
    scale: float
    rest: float
    same: bool
    deviation: float


def fit(blocks: Iterable[tuple[Tensor | None, list[Edit], Tensor]]) -> Fit | None:
    """Measure the update in a tensor.

    Args:
        blocks: for some rows the base's, the edits, and what was found.
    """
    numbers, update, along, difference = 0, 0.0, 0.0, 0.0
    for base, edits, found in blocks:
        if base is None:
            return None
        before = base.to(torch.float64)
        change = base.to(torch.float32, copy=True)
        for edit in edits:
            change = edit.apply(change, False)
        if change.shape != found.shape or base.shape != found.shape:
            return None
        made, seen = change.to(torch.float64) - before, found.to(torch.float64) - before
        numbers += found.numel()
        update += float(torch.sum(made * made))
        along += float(torch.sum(made * seen))
        difference += float(torch.sum(seen * seen))
    if not update or not math.isfinite(difference + update):
        return None
    scale = along / update
    rest = max(0.0, difference - scale * along)
    return Fit(
        numbers,
        scale,
        math.sqrt(rest / difference) if difference else 0.0,
        not difference,
        math.sqrt(rest / update / max(1, numbers)),
    )


def reason(tally: Tally, found: Fit | None) -> tuple[Reason, str]:
    """The key of the nearest explanation, and the explanation."""
    if found is not None and found.same:
        return "unmerged", "holds the base's own numbers: the adapter is not merged here"
    if tally.differing <= max(1, _FEW * tally.numbers):
        where = f", the furthest at {list(tally.place or ())}"
        return "altered", f"{tally.differing:,} of {tally.numbers:,} numbers are other ones{where}"
    if found is None:
        return "other", "holds other numbers than the adapter's"
    if found.rest <= _ALONG:
        return _scaled(tally, found.scale)
    if abs(found.scale - 1) <= max(_NEAR, 4 * found.deviation) and found.scale > _SIGMAS * found.deviation:
        return "other base", "holds the update, but not on these numbers: the base is another"
    return "other", f"holds other numbers, with {found.scale:.2g} times the update in them"


def _scaled(tally: Tally, scale: float) -> tuple[Reason, str]:
    if abs(scale - 2) <= _NEAR:
        return "twice", f"holds {scale:.3g} times the update: merged twice"
    if abs(scale + 1) <= _NEAR:
        return "subtracted", f"holds {scale:.3g} times the update: taken away instead of added"
    share = tally.relative_error
    if abs(scale - 1) <= _NEAR and share is not None and share <= _NEAR:
        return (
            "rounding",
            f"holds the update up to {share:.2g} of it, but up to {tally.ulps:.3g} units of the last place off",
        )
    if abs(scale - 1) <= _NEAR:
        return (
            "other",
            f"holds {scale:.3g} times the update, and something else: is an adapter or a method missing?",
        )
    return "scale", f"holds {scale:.3g} times the update: another scale"
