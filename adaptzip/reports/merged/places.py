"""Where a merged model stores what it should hold: under the base's names, or those of another version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.errors import BaseModelError
from adaptzip.models.folder import BaseModel
from adaptzip.models.layouts import COLUMN_EXPERT_TYPES, part_of
from adaptzip.models.names import Location, Renaming, locate, locate_tensor
from adaptzip.models.renaming import find_renaming
from adaptzip.models.shards import StoredTensor

_BUFFERS = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", ".attn.bias", "num_batches_tracked")
"""What transformers makes itself, and some versions store."""


@dataclass(frozen=True)
class Place:
    """Where one tensor lies in another model: in one tensor, in a part of one, or in several.

    Attributes:
        sites: the stored tensors of each expert of a stack, or of the one tensor.
        stacked: whether they are the experts of a stack.
    """

    sites: tuple[tuple[Location, ...], ...]
    stacked: bool = False

    @property
    def plain(self) -> str | None:
        """The one stored tensor that is the whole of it, None where it is in parts."""
        first = self.sites[0][0]
        return None if self.stacked or len(self.sites[0]) > 1 or first != Location(first.tensor) else first.tensor

    @property
    def tensors(self) -> tuple[str, ...]:
        """The stored tensors that it takes."""
        return tuple(site.tensor for sites in self.sites for site in sites)

    def read(self, model: BaseModel) -> Tensor:
        """The whole tensor, put together.

        Raises:
            BaseModelError: if the model stores parts that do not fit together.
        """
        parts = [[_part(model, site, self.stacked) for site in sites] for sites in self.sites]
        try:
            whole = [torch.cat(found) if len(found) > 1 else found[0] for found in parts]
            across = self.stacked and self.sites[0][0].expert is None and model.model_type in COLUMN_EXPERT_TYPES
            return torch.stack([weight.T if across else weight for weight in whole]) if self.stacked else whole[0]
        except RuntimeError:
            raise BaseModelError(f"{model.path}: {self.tensors[0]} and the like do not fit together") from None


def find_places(model: BaseModel, tensors: Mapping[str, StoredTensor]) -> dict[str, Place]:
    """The place of each tensor in a model, by name; those without one are left out.

    Args:
        model: where they are looked for.
        tensors: what is looked for.
    """
    renaming = Renaming() if tensors.keys() <= model.tensors.keys() else _renaming(model, tensors)
    found = {name: _place(model, tensor, renaming) for name, tensor in tensors.items()}
    return {name: place for name, place in found.items() if place is not None}


def is_buffer(name: str) -> bool:
    """Whether a tensor of this name is made by the model's code, so that it need not be stored."""
    return name.endswith(_BUFFERS)


def unclaimed(model: BaseModel, places: Mapping[str, Place]) -> Iterator[str]:
    """The tensors of a model that are in no place, nor one parameter with what is."""
    claimed = {tensor for place in places.values() for tensor in place.tensors}
    for name in model.tensors:
        if name not in claimed and not is_buffer(name) and not claimed & set(model.tied_partners(name)):
            yield name


def _renaming(model: BaseModel, tensors: Mapping[str, StoredTensor]) -> Renaming:
    """The change of prefix to the model's names, told by its layers; none where there is no one change."""
    layers = [
        n.removesuffix(".weight") for n in tensors if n.endswith(".weight") and any(map(str.isdigit, n.split(".")))
    ]
    try:
        return find_renaming(model, layers)
    except BaseModelError:
        return Renaming()


def _place(model: BaseModel, tensor: StoredTensor, renaming: Renaming) -> Place | None:
    if tensor.name in model.tensors:
        return Place(((Location(tensor.name),),))
    if tensor.name.endswith(".weight"):
        sites = locate(model, tensor.name.removesuffix(".weight"), renaming)
        if sites:
            return Place((sites,))
    found = locate_tensor(model, tensor.name, renaming)
    if found is not None:
        return Place(((Location(found),),))
    if len(tensor.shape) != 3:
        return None
    experts = tuple(locate(model, f"{tensor.name}[{number}]", renaming) for number in range(tensor.shape[0]))
    return Place(experts, stacked=True) if experts and all(experts) else None


def _part(model: BaseModel, site: Location, stacked: bool) -> Tensor:
    tensor = model.read(site.tensor)
    if site.expert is None:
        return tensor
    across = not stacked and model.model_type in COLUMN_EXPERT_TYPES
    part = part_of(tensor[site.expert], site.part, "expert_transposed" if across else "expert")
    return part.T if across else part
