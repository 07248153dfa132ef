"""The difference between a module's weights in two models, one module at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.checkpoints._trained import same
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.layouts import TURNED, Layout
from adaptzip.errors import BaseModelError
from adaptzip.models.folder import BaseModel
from adaptzip.models.layouts import part_of, stored_layout
from adaptzip.models.names import Location
from adaptzip.restoring.extracting.parts import Part


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
    dtype = torch.promote_types(torch.promote_types(after.dtype, before.dtype), torch.float32)
    delta = after.to(dtype)
    del after
    delta -= before
    if not bool(torch.isfinite(delta.sum(dtype=torch.float64))):
        model, place = (tuned, part.place) if bool(torch.isfinite(before).all()) else (base, places[0])
        raise BaseModelError(f"{model.path}: {place.tensor} holds NaN or infinity", hint="download the model again")
    return delta


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
