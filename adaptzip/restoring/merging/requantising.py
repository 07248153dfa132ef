"""Writing what was merged into eight-bit floats as eight-bit floats again, with scales made anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from adaptzip.errors import RefusedError
from adaptzip.models.dequantising.opening import DecodedShard, found_in, stored_in
from adaptzip.models.dequantising.scaled import FLOAT8, Scaled, encoded
from adaptzip.models.dequantising.source import Found
from adaptzip.models.folder import BaseModel
from adaptzip.models.quantised import config_tables
from adaptzip.models.shards import Shard
from adaptzip.restoring.merging.edits import Edit
from adaptzip.restoring.merging.plan import MergePlan, Output
from adaptzip.restoring.merging.rounding import Ledger, folded, is_merged, measured_outputs, on_rows

_HINT = "merge with --dequantise instead, which writes bfloat16"


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
        exact = folded(self.edits, weight.clone(), safe)
        numbers, scales = encoded(self.form, exact)
        if self.ledger is not None:
            made = self.form.decoded(numbers, scales, 0, weight.shape[0])
            self.ledger.note(self.name, self.row, exact - weight, made - exact)
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
        return encoded(self.form, folded(self.edits, weight, safe))[1].reshape(self.shape)

    def on_rows(self, start: int, stop: int) -> Edit | None:
        return None


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
                f"{base.path}: {name} would be {list(own[name].stored.shape)}, and --requantise keeps its scales' "
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
            f"{base.path}: {one.name} is quantised ({told.get('quant_method', 'float8 without scales')}); --requantise "
            "writes float8 with scales",
            hint=_HINT,
        )
    if told.get("scale_fmt") == "ue8m0":
        raise RefusedError(
            f"{base.path}: {one.name} has scale_fmt ue8m0; --requantise makes scales of any size, not powers of two",
            hint=_HINT,
        )
    return form


def _mixed(shard: Shard, changed: Mapping[str, Scaled]) -> Shard:
    """A file as it is, but for the weights that are changed, which are read as floats."""
    if not isinstance(shard, DecodedShard):
        return shard
    found = {name: one for name, one in shard.found.items() if name in changed}
    return replace(shard, tensors={**stored_in(shard), **{name: shard.tensors[name] for name in found}}, found=found)
