"""How much of an update is left of it once the merged weights are rounded to what they are written as."""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adaptzip.restoring.merging.edits import Edit, Update, WithinRows
from adaptzip.restoring.merging.plan import MergePlan, Output


@dataclass(frozen=True)
class Rounding:
    """What rounding left of a merge's updates.

    Attributes:
        how: "dequantised" or "requantised".
        kept: 1 - |W' - (W + dW)|^2 / |dW|^2 over all merged modules: W the base's weights, W' those written. Below 0
            where rounding changes more than the update does; None where there was no update.
        worst: the module of which the least was kept.
        worst_kept: the same of that module alone.
    """

    how: str
    kept: float | None
    worst: str | None = None
    worst_kept: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"how": self.how, "kept": self.kept, "worst": self.worst, "worst_kept": self.worst_kept}

    def told(self) -> str:
        """The same in words."""
        if self.kept is None or self.worst_kept is None:
            return f"{self.how}: there was no update for rounding to keep"
        much = "rounding changes the weights more than the update does: it " if self.kept < 0 else "rounding "
        return f"{self.how}: {much}keeps {self.kept:.4%} of the update, least in {self.worst}: {self.worst_kept:.4%}"


class Ledger:
    """Squares of updates and of what rounding did to them, remembered for each module and first row.

    Rows may come in any order and from several threads; the sums are the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._squares: dict[str, dict[Hashable, tuple[float, float]]] = {}

    def note(self, name: str, row: Hashable, update: Tensor, error: Tensor) -> None:
        """Remember the update of some rows of a tensor, and what was written less what should have been."""
        squares = (_square(update), _square(error))
        with self._lock:
            self._squares.setdefault(name, {})[row] = squares

    def __repr__(self) -> str:
        """What it is, and not where: it is part of a plan, whose fingerprint is the same in every run."""
        return "Ledger()"

    def sums(self, names: Iterable[str]) -> dict[str, tuple[float, float]]:
        """What was noted of some tensors, each in all."""
        with self._lock:
            return {name: _sums(self._squares[name].values()) for name in names if name in self._squares}

    def restore(self, sums: Mapping[str, tuple[float, float]]) -> None:
        """Remember what another run had noted."""
        with self._lock:
            self._squares |= {name: {0: (float(one), float(other))} for name, (one, other) in sums.items()}

    def rounding(self, how: str) -> Rounding:
        """What was kept of all that was noted."""
        modules = {name: _sums(rows.values()) for name, rows in self._squares.items()}
        update, error = _sums(modules.values())
        if not update:
            return Rounding(how, None)
        kept = {name: 1 - wrong / whole for name, (whole, wrong) in modules.items() if whole}
        worst = min(sorted(kept), key=lambda name: kept[name])
        return Rounding(how, 1 - error / update, worst.removesuffix(".weight"), kept[worst])


@dataclass(frozen=True, eq=False)
class Measured:
    """Makes the changes of a weight, and notes what rounding to its dtype leaves of them.

    A weight that is read as float32 and written shorter is rounded once, at the end.

    Attributes:
        edits: the changes.
        dtype: what is written.
        name: the tensor's name.
        ledger: where it is noted.
        row: the first row.
    """

    edits: tuple[Edit, ...]
    dtype: torch.dtype
    name: str
    ledger: Ledger
    row: int = 0

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        wide = torch.promote_types(weight.dtype, torch.float32)
        before = weight.to(wide, copy=True)
        exact = folded(self.edits, before.clone(), safe)
        made = (exact if weight.dtype == wide else folded(self.edits, weight, safe)).to(self.dtype)
        self.ledger.note(self.name, self.row, exact - before, made.to(wide) - exact)
        return made

    def on_rows(self, start: int, stop: int) -> Edit | None:
        parts = on_rows(self.edits, start, stop)
        return None if parts is None else replace(self, edits=parts, row=self.row + start)


def folded(edits: Sequence[Edit], weight: Tensor, safe: bool) -> Tensor:
    """A weight, which may be changed in place, after some changes."""
    for edit in edits:
        weight = edit.apply(weight, safe)
    return weight


def on_rows(edits: Sequence[Edit], start: int, stop: int) -> tuple[Edit, ...] | None:
    """The changes of some rows, None where one of them needs the others."""
    parts = [edit.on_rows(start, stop) for edit in edits]
    return None if None in parts else tuple(part for part in parts if part is not None)


def measured(plan: MergePlan, ledger: Ledger) -> MergePlan:
    """A plan that notes what rounding leaves of the modules' updates, and else does the same."""
    return replace(plan, outputs=tuple(tuple(measured_outputs(plan, ledger, shard)) for shard in plan.outputs))


def measured_outputs(plan: MergePlan, ledger: Ledger, outputs: Iterable[Output]) -> Iterator[Output]:
    """The same of some outputs."""
    for output in outputs:
        name, dtype = output.stored.name, output.stored.dtype
        edits = (Measured(output.edits, dtype, name, ledger),) if is_merged(plan, output) else output.edits
        yield replace(output, edits=edits)


def is_merged(plan: MergePlan, output: Output) -> bool:
    """Whether an output is a stored weight with a module's update, in its own shape."""
    source, found = output.source, any(map(_is_update, output.edits))
    return found and source is not None and plan.base.stored(source).shape == output.stored.shape


def _is_update(edit: Edit) -> bool:
    return isinstance(edit, Update) or (isinstance(edit, WithinRows) and _is_update(edit.edit))


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _sums(squares: Iterable[tuple[float, float]]) -> tuple[float, float]:
    pairs = list(squares)
    return math.fsum(one for one, _ in pairs), math.fsum(other for _, other in pairs)
