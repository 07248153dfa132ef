"""The changes that merging makes to one weight, as values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.models.adding import LEAST_ROWS, goes_by_rows, merge_bias, merge_update, on_rows
from adaptzip.models.layouts import part_of


class Edit(Protocol):
    """One change of a weight."""

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        """The changed weight; `weight` itself may be changed in place."""

    def on_rows(self, start: int, stop: int) -> Edit | None:
        """The same change of some rows alone, that is of `weight[start:stop]`; None where a row depends on others."""


@dataclass(frozen=True, eq=False)
class NewTensor:
    """A tensor that the base does not store, made from a `source` that it does or else by its edits alone."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    source: str | None = None
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, eq=False)
class Replacement:
    """Puts another tensor in the weight's place, in the weight's dtype."""

    tensor: Tensor

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        return self.tensor.to(weight.device, weight.dtype, copy=True).contiguous()

    def on_rows(self, start: int, stop: int) -> Edit | None:
        return Replacement(self.tensor[start:stop]) if self.tensor.ndim else None


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Overwrites the rows of an embedding that `indices` names."""

    indices: Tensor
    rows: Tensor

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        return weight.index_copy_(0, self.indices.to(weight.device), self.rows.to(weight.device, weight.dtype))

    def on_rows(self, start: int, stop: int) -> Edit | None:
        here = (self.indices >= start) & (self.indices < stop)
        return TokenRows(self.indices[here] - start, self.rows[here])


@dataclass(frozen=True, eq=False)
class Padding:
    """Brings the last dimension to `size` with zeros at its end, as transformers does to biases of a vocabulary."""

    size: int

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        return functional.pad(weight, (0, self.size - weight.shape[-1]))

    def on_rows(self, start: int, stop: int) -> Edit | None:
        return None


@dataclass(frozen=True, eq=False)
class Update:
    """Adds a module's update to a weight, or to one expert's slice or part of a slice of it, see `merge_update`."""

    factors: LoraFactors
    layout: Layout
    rows: tuple[int, int] | None = None
    expert: int | None = None
    part: tuple[int, int] | None = None

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        target = weight if self.expert is None else weight[self.expert]
        target = part_of(target, self.part, self.layout)
        merge_update(target, self.factors, self.layout, rows=self.rows, safe=safe)
        return weight

    def on_rows(self, start: int, stop: int) -> Edit | None:
        if self.expert is not None:
            return replace(self, expert=self.expert - start) if start <= self.expert < stop else _NOTHING
        if self.part is not None or not goes_by_rows(self.factors, self.layout):
            return None
        factors = self.factors if self.rows is None else on_rows(self.factors, "linear", *self.rows)
        return Update(on_rows(factors, self.layout, start, stop), self.layout)


@dataclass(frozen=True, eq=False)
class WithinRows:
    """Makes another edit of some rows alone, those that are a tensor of their own in another form of the model."""

    edit: Edit
    start: int
    stop: int

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        rows = weight[self.start : self.stop]
        changed = self.edit.apply(rows, safe)
        if changed is not rows:
            rows.copy_(changed)
        return weight

    def on_rows(self, start: int, stop: int) -> Edit | None:
        if self.start % LEAST_ROWS or self.stop % LEAST_ROWS:
            return None  # A block could end so near that its product ended in other bits.
        first, last = (min(max(row, self.start), self.stop) for row in (start, stop))
        edit = self.edit.on_rows(first - self.start, last - self.start)
        if edit is None or first == last:
            return edit and _NOTHING
        return WithinRows(edit, first - start, last - start)


@dataclass(frozen=True, eq=False)
class BiasUpdate:
    """Adds a module's own bias times its scaling."""

    bias: Tensor
    scaling: float

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        merge_bias(weight, self.bias, self.scaling)
        return weight

    def on_rows(self, start: int, stop: int) -> Edit | None:
        return BiasUpdate(self.bias[start:stop], self.scaling)


@dataclass(frozen=True)
class _Nothing:
    """Changes nothing."""

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        return weight

    def on_rows(self, start: int, stop: int) -> Edit | None:
        return self


_NOTHING = _Nothing()
