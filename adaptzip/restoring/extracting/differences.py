"""The difference between a module's weights in two models, one module at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.checkpoints._trained import same
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.layouts import TURNED, Layout
from adaptzip.core.truncating import Rows
from adaptzip.errors import BaseModelError
from adaptzip.models.adding import is_finite
from adaptzip.models.folder import BaseModel
from adaptzip.models.layouts import part_of, stored_layout
from adaptzip.models.names import Location
from adaptzip.restoring.extracting.parts import Part

_READ = 1 << 20
"""Numbers of the rows that are read at a time."""


def layout_in(base: BaseModel, part: Part, place: Location) -> Layout:
    """How the base stores at `place` what a module of the tuned model has.

    Raises:
        BaseModelError: if it has another shape there.
        RefusedError: as `stored_layout`.
    """
    whole = place == Location(place.tensor) and part.place == Location(part.place.tensor)
    if whole and base.stored(place.tensor).shape == _stored_shape(part):
        return part.layout
    (out, width), none = part.shape, torch.empty(0)
    shaped = LoraFactors(none.reshape(0, width), none.reshape(out, 0), layout=part.layout, kernel=part.kernel)
    return stored_layout(base, part.name, shaped, place)


def difference(tuned: BaseModel, base: BaseModel, part: Part, places: tuple[Location, ...]) -> Tensor | None:
    """What a module's weight is more than the base's, (out, in), float32 or float64; None where they are the same.

    Weights that differ in no more than a narrower dtype of the tuned model are the same.

    Raises:
        BaseModelError: if the tuned model's weight holds NaN or infinity, or the base's does.
    """
    after = _weight(tuned, part.place, part.layout)
    layouts = [layout_in(base, part, place) for place in places]
    found = [_weight(base, place, layout) for place, layout in zip(places, layouts, strict=True)]
    before = found[0] if len(found) == 1 else torch.cat(found, dim=1 if layouts[0] in TURNED else 0)
    if same(after, before):
        return None
    _check_finite(tuned, base, part.place, places[0], after, before)
    dtype = torch.promote_types(torch.promote_types(after.dtype, before.dtype), torch.float32)
    delta = after.to(dtype)
    del after
    delta -= before
    return delta


def streamed(tuned: BaseModel, base: BaseModel, part: Part, places: tuple[Location, ...]) -> Rows | None:
    """The difference as rows of the stored weights, which both models have alike; None where they do not.

    The rows are those of the update, or its columns where the layout is turned.
    """
    one, other = part.place, places[0]
    alike = len(places) == 1 and (one, other) == (Location(one.tensor), Location(other.tensor))
    before, after = base.stored(other.tensor), tuned.stored(one.tensor)
    if not alike or before.shape != after.shape or layout_in(base, part, other) != part.layout:
        return None
    dtype = torch.promote_types(torch.promote_types(after.dtype, before.dtype), torch.float32)
    width = torch.Size(after.shape[1:]).numel()

    def read(start: int, stop: int) -> Tensor:
        delta = tuned.read(one.tensor, (start, stop)).to(dtype)
        delta -= base.read(other.tensor, (start, stop))
        return delta.flatten(1)

    return Rows((after.shape[0], width), dtype, read, max(1, _READ // width))


def differs(tuned: BaseModel, base: BaseModel, part: Part, place: Location, rows: Rows) -> bool:
    """Whether weights that are read by rows differ, as `difference` says it.

    Raises:
        BaseModelError: as `difference`.
    """
    found = False
    for start in range(0, rows.shape[0], rows.step):
        some = start, min(start + rows.step, rows.shape[0])
        after, before = tuned.read(part.place.tensor, some), base.read(place.tensor, some)
        found = found or not same(after, before)
        _check_finite(tuned, base, part.place, place, after, before)
    return found


def _check_finite(
    tuned: BaseModel, base: BaseModel, one: Location, other: Location, after: Tensor, before: Tensor
) -> None:
    for model, place, weight in ((tuned, one, after), (base, other, before)):
        if not is_finite(weight):
            raise BaseModelError(f"{model.path}: {place.tensor} holds NaN or infinity", hint="download the model again")


def _weight(model: BaseModel, place: Location, layout: Layout) -> Tensor:
    """A module's weight, or a part of its rows, as (out, in)."""
    weight = part_of(_stored(model, place), place.part, layout)
    return weight.T if layout in TURNED else weight.flatten(1)


def _stored(model: BaseModel, place: Location) -> Tensor:
    """What the model stores at a place, of stacked experts one alone."""
    if place.expert is None:
        return model.read(place.tensor)
    return model.read(place.tensor, (place.expert, place.expert + 1))[0]


def _stored_shape(part: Part) -> tuple[int, ...]:
    out, width = part.shape
    if part.layout == "conv":
        return (out, width // torch.Size(part.kernel).numel(), *part.kernel)
    return (width, out) if part.layout in TURNED else (out, width)
