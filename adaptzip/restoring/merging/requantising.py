"""Writing what was merged into eight-bit floats as eight-bit floats again, with scales made anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptzip.errors import RefusedError
from adaptzip.models.dequantising.opening import DecodedShard, found_in, stored_in
from adaptzip.models.dequantising.scaled import FLOAT8, Scaled, encoded, scales_for
from adaptzip.models.dequantising.source import Found
from adaptzip.models.folder import BaseModel
from adaptzip.models.quantised import config_tables
from adaptzip.models.shards import Shard
from adaptzip.restoring.merging.edits import Edit
from adaptzip.restoring.merging.plan import MergePlan, Output
from adaptzip.restoring.merging.rounding import Ledger, folded, is_merged, measured_outputs, on_rows

_BAND = 1 << 20
"""Numbers that are changed and rounded at a time."""
_LEAST_ROWS = 64
_HINT = "merge with `dequantise=True` instead, which writes bfloat16"


@dataclass(frozen=True, eq=False)
class Encoded:
    """Makes the changes of a weight, and eight-bit floats of it; of what is a module's, notes what that left.

    Attributes:
        edits: the changes.
        form: how the weight is stored.
        name: the tensor's name.
        ledger: where it is noted; None for nowhere.
        row: the first row.
    """

    edits: tuple[Edit, ...]
    form: Scaled
    name: str
    ledger: Ledger | None
    row: int = 0

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        numbers = torch.empty(weight.shape, dtype=self.form.source.stored(self.form.name).dtype, device=weight.device)
        whole = scales_of(self.edits, self.form, weight, safe) if self.form.grid.counts[0] == 1 else None
        for first, before, exact in _bands(self.edits, self.form, weight, safe):
            scales = scales_for(self.form, self.form.grid.largest(exact)) if whole is None else whole
            made = encoded(self.form, exact, scales)
            numbers[first : first + made.shape[0]] = made
            if self.ledger is not None:
                error = self.form.decoded(made, scales, 0, made.shape[0]) - exact
                self.ledger.note(self.name, self.row + first, exact - before, error)
        return numbers

    def on_rows(self, start: int, stop: int) -> Edit | None:
        parts = on_rows(self.edits, start, stop) if self.form.grid.goes_by_rows else None
        return None if parts is None else replace(self, edits=parts, row=self.row + start)


@dataclass(frozen=True, eq=False)
class Scales:
    """Makes the changes of a weight, and of it the scales that its eight-bit floats have."""

    edits: tuple[Edit, ...]
    form: Scaled
    shape: tuple[int, ...]

    def apply(self, weight: Tensor, safe: bool) -> Tensor:
        return scales_of(self.edits, self.form, weight, safe).reshape(self.shape)

    def on_rows(self, start: int, stop: int) -> Edit | None:
        return None


def scales_of(edits: Sequence[Edit], form: Scaled, weight: Tensor, safe: bool) -> Tensor:
    """The scales that a weight has after some changes, (scales down, scales across)."""
    largest = [form.grid.largest(exact) for _, _, exact in _bands(edits, form, weight, safe)]
    down = torch.cat(largest)
    return scales_for(form, down.amax(0, keepdim=True) if form.grid.counts[0] == 1 else down)


def _bands(edits: Sequence[Edit], form: Scaled, weight: Tensor, safe: bool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Rows of a weight and what becomes of them, with the first one's number: never parted within a scale."""
    if on_rows(edits, 0, 0) is None:
        yield 0, weight, folded(edits, weight.clone(), safe)
        return
    rows, width = weight.shape
    height = 1 if form.grid.counts[0] == 1 else form.grid.height
    step = height * max(-(-_LEAST_ROWS // height), _BAND // (height * width))
    for first in range(0, rows, step):
        before = weight[first : first + step]
        yield first, before, folded(on_rows(edits, first, first + len(before)) or (), before.clone(), safe)


def requantised(plan: MergePlan, ledger: Ledger) -> MergePlan:
    """A plan for float weights as one for the base's own eight-bit floats.

    What the plan leaves alone is copied byte for byte; of a changed weight the numbers and their scales are made anew.

    Args:
        plan: for the base, whose weights are read as floats.
        ledger: where it is noted what rounding leaves.

    Raises:
        RefusedError: if the base's scheme is no eight-bit floats with scales, or a weight changes its shape.
    """
    base = plan.base
    forms = {name: _form(base, one) for shard in base.shards for name, one in found_in(shard).items()}
    own = {str(o.source): o for number in range(len(base.shards)) for o in _own(plan, number).values()}
    changed = {name: form for name, form in forms.items() if own[name].edits}
    for name in changed:
        if tuple(own[name].stored.shape) != forms[name].shape:
            raise RefusedError(
                f"{base.path}: {name} would be {list(own[name].stored.shape)}, and `requantise=True` keeps its scales' "
                f"places for {list(forms[name].shape)}",
                hint=_HINT,
            )
    mixed = replace(base, shards=tuple(_mixed(shard, changed) for shard in base.shards))
    outputs = (tuple(_outputs(plan, number, forms, changed, ledger)) for number in range(len(base.shards)))
    return replace(plan, base=mixed, outputs=tuple(outputs))


def _outputs(
    plan: MergePlan, number: int, forms: Mapping[str, Scaled], changed: Mapping[str, Scaled], ledger: Ledger
) -> Iterator[Output]:
    """What is written into the file of a number: what it held, and what the plan adds."""
    own, added = _own(plan, number), plan.outputs[number][len(plan.base.shards[number].tensors) :]
    everything = {str(o.source): o for n in range(len(plan.base.shards)) for o in _own(plan, n).values()}
    scales = {form.scale: name for name, form in changed.items()}
    prefix = next((output.stored.name.removesuffix(name) for name, output in own.items()), "")
    for name, stored in stored_in(plan.base.shards[number]).items():
        named = replace(stored, name=prefix + name)
        if name in scales:
            weight = scales[name]
            edits = everything[weight].edits
            yield Output(named, weight, (Scales(edits, changed[weight], tuple(stored.shape)),))
        elif name in changed:
            noted = ledger if is_merged(plan, own[name]) else None
            yield Output(named, name, (Encoded(own[name].edits, changed[name], named.name, noted),))
        elif name in own and name not in forms:
            yield from measured_outputs(plan, ledger, [own[name]])
        else:
            yield Output(named, name)
    for output in added:
        if output.source in forms:
            raise RefusedError(
                f"{plan.base.path}: {output.stored.name} would be made of {output.source}, which is quantised",
                hint=_HINT,
            )
        yield output


def _own(plan: MergePlan, number: int) -> dict[str, Output]:
    """What the plan makes of the tensors of one file, by their names in the base."""
    names = plan.base.shards[number].tensors
    return dict(zip(names, plan.outputs[number], strict=False))


def _form(base: BaseModel, one: Found) -> Scaled:
    """How a weight is stored, where it can be stored so again."""
    form, tables = one.decoder, [table.get("quantization_config") for table in config_tables(base.config)]
    told = next((table for table in tables if isinstance(table, Mapping)), {})
    is_float8 = isinstance(form, Scaled) and form.zero is None and form.source.stored(form.name).dtype in FLOAT8
    if not isinstance(form, Scaled) or not is_float8:
        raise RefusedError(
            f"{base.path}: {one.name} is quantised ({told.get('quant_method', 'float8 without scales')}); "
            "`requantise=True` writes float8 with scales",
            hint=_HINT,
        )
    if told.get("scale_fmt") == "ue8m0":
        raise RefusedError(
            f"{base.path}: {one.name} has scale_fmt ue8m0; `requantise=True` makes scales of any size, not powers "
            "of two",
            hint=_HINT,
        )
    return form


def _mixed(shard: Shard, changed: Mapping[str, Scaled]) -> Shard:
    """A file as it is, but for the weights that are changed, which are read as floats."""
    if not isinstance(shard, DecodedShard):
        return shard
    found = {name: one for name, one in shard.found.items() if name in changed}
    return replace(shard, tensors={**stored_in(shard), **{name: shard.tensors[name] for name in found}}, found=found)
