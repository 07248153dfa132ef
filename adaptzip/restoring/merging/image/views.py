"""The models in one file as models of their own, whose layers have the names of both implementations.

Rows of a fused layer lie one after the other in a file, so that each layer that another implementation has apart is
a tensor of its own here, without a copy of anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.rules import Family, numbered
from adaptzip.models.folder import BaseModel
from adaptzip.models.quantised import refuse_quantised_tensors
from adaptzip.models.shards import Shard, StoredTensor
from adaptzip.restoring.merging.image.families import family_of, is_unet

LEAVES = ("weight", "bias")
_OPEN_CLIP = {
    "attn.out_proj": ("self_attn.out_proj",),
    "mlp.c_fc": ("mlp.fc1",),
    "mlp.c_proj": ("mlp.fc2",),
    "ln_1": ("layer_norm1",),
    "ln_2": ("layer_norm2",),
}
"""Layers of a block of OpenCLIP, and transformers' names of them."""
_QKV = tuple(f"self_attn.{name}_proj" for name in "qkv")
_BLOCKS, _LAYERS = "transformer.resblocks.", "text_model.encoder.layers."


@dataclass(frozen=True)
class Rows:
    """Where a tensor of a view lies: in all or in some rows of a tensor of the file."""

    tensor: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Component:
    """One model of a pipeline.

    Attributes:
        model: its tensors by each name that adapters have for them.
        places: of a view, where each of these lies.
        turned: layers, under names by which the halves of their rows lie the other way round.
        family: of a denoiser that is a transformer, where it is known.
    """

    model: BaseModel
    places: Mapping[str, Rows] = field(default_factory=dict)
    turned: frozenset[str] = frozenset()
    family: Family | None = None


@dataclass(frozen=True)
class _Alias:
    """Another name of a tensor or of some of its rows."""

    name: str
    place: Rows
    turned: bool = False


def folder_view(model: BaseModel) -> Component:
    """A component in a folder of its own."""
    return Component(model, family=family_of(layers_of(model)))


def file_view(file: BaseModel, prefix: str) -> Component:
    """The component whose names begin with `prefix` in a file.

    Raises:
        RefusedError: if its weights are quantised.
    """
    inside = {
        name.removeprefix(prefix): stored
        for shard in file.shards
        for name, stored in shard.tensors.items()
        if name.startswith(prefix)
    }
    refuse_quantised_tensors(file.path, inside.values())
    layers = {path.rpartition(".")[0] for path in inside}
    family = None if is_unet(layers) else family_of(layers)
    tensors: dict[str, StoredTensor] = {}
    places: dict[str, Rows] = {}
    turned = set()
    for alias in _aliases(inside, family):
        if alias.name not in inside:
            tensors[alias.name] = _cut(inside[alias.place.tensor], alias.name, alias.place.rows)
            places[alias.name] = replace(alias.place, tensor=prefix + alias.place.tensor)
            if alias.turned:
                turned.add(alias.name.rpartition(".")[0])
    tensors |= inside
    places |= {path: Rows(prefix + path) for path in inside}
    model = BaseModel(file.path, (Shard(file.path, tensors),))
    return Component(model, places, frozenset(turned), family)


def layers_of(model: BaseModel) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's weight, by path."""
    ending = ".weight"
    return {n.removesuffix(ending): model.stored(n).shape for n in model.tensors if n.endswith(ending)}


def _cut(stored: StoredTensor, name: str, rows: tuple[int, int] | None) -> StoredTensor:
    if rows is None:
        return replace(stored, name=name)
    first, last = rows
    width = stored.bytes // stored.shape[0]
    return StoredTensor(name, stored.dtype, (last - first, *stored.shape[1:]), stored.offset + first * width)


def _aliases(inside: Mapping[str, StoredTensor], family: Family | None) -> Iterator[_Alias]:
    for path, stored in inside.items():
        layer, _, leaf = path.rpartition(".")
        if path.startswith(_BLOCKS):
            yield from _of_clip(path, stored)
        elif leaf in LEAVES and unet.is_original(layer):
            name = unet.to_diffusers(layer)
            if name is not None:
                yield _Alias(f"{name}.{leaf}", Rows(path))
        elif leaf in LEAVES and family is not None and (rule := family.of_original(layer)) is not None:
            shape = inside[f"{layer}.weight"].shape if f"{layer}.weight" in inside else ()
            swaps = rule.halves_swapped and len(shape) > 1 and rule.swaps((shape[0], shape[1]))
            names = [f"{name.replace('#', numbered(layer)[1])}.{leaf}" for name in rule.diffusers]
            yield from (replace(alias, turned=swaps) for alias in _shared(path, stored, names, rule.shares))


def _of_clip(path: str, stored: StoredTensor) -> Iterator[_Alias]:
    """transformers' names of a tensor of OpenCLIP."""
    number, _, inner = path.removeprefix(_BLOCKS).partition(".")
    begin = f"{_LAYERS}{number}."
    layer, _, leaf = inner.rpartition(".")
    if inner.startswith("attn.in_proj_"):
        leaf = inner.removeprefix("attn.in_proj_")
        yield from _shared(path, stored, [f"{begin}{name}.{leaf}" for name in _QKV], (1, 1, 1))
    else:
        yield from (_Alias(f"{begin}{name}.{leaf}", Rows(path)) for name in _OPEN_CLIP.get(layer, ()))


def _shared(path: str, stored: StoredTensor, names: Iterable[str], shares: tuple[int, ...]) -> Iterator[_Alias]:
    """The names of a tensor's rows in these shares; none where they do not come apart so."""
    if len(shares) == 1:
        yield from (_Alias(name, Rows(path)) for name in names)
        return
    if not stored.shape or stored.shape[0] % sum(shares):
        return
    unit, first = stored.shape[0] // sum(shares), 0
    for name, share in zip(names, shares, strict=True):
        yield _Alias(name, Rows(path, (first, first + unit * share)))
        first += unit * share
