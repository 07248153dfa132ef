"""cloneofsimo's LoRA of Stable Diffusion 1 and 2, whose files number the layers instead of naming them.

A safetensors file has `unet:N:down` (rank, in) and `unet:N:up` (out, rank), `text_encoder:N:...` and vectors of new
tokens such as `<s1>`; a `.pt` is a list of up, down, up, down, ... of one model, the text encoder's by its file's name.
Layers are counted by attention: the projections of each CrossAttention, and between two of a block the GEGLU's. There
is no alpha, and the scale is 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._image.dialect import ImageReader
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effect, Effects
from adaptzip.errors import CheckpointError, RefusedError

_KEY = re.compile(r"(unet|text_encoder):(\d+):(down|up)")
_TOKEN = re.compile(r"<[^>]+>")
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
_CLIP = ("k_proj", "v_proj", "q_proj", "out_proj")
"""In the order in which the library's CLIP has them."""
_TOKENS = "text_encoder.text_model.embeddings.token_embedding"
_BLOCKS = (
    *(f"down_blocks.{block}.attentions.{layer}" for block in range(3) for layer in range(2)),
    *(f"up_blocks.{block}.attentions.{layer}" for block in range(1, 4) for layer in range(3)),
    "mid_block.attentions.0",
)
"""The attentions of a UNet in the order of its modules."""


def _layers(geglu: bool) -> tuple[str, ...]:
    between = ("ff.net.0.proj",) if geglu else ()
    inner = (
        *(f"attn1.{name}" for name in _PROJECTIONS), *between, *(f"attn2.{name}" for name in _PROJECTIONS),
    )  # fmt: skip
    return tuple(f"{block}.transformer_blocks.0.{layer}" for block in _BLOCKS for layer in inner)


_UNETS = {len(layers): layers for layers in (_layers(True), _layers(False))}
"""The layers of a UNet by how many are trained."""


class _Cloneofsimo(ImageReader):
    """The dialect `cloneofsimo`."""

    name = "cloneofsimo"
    title = "a cloneofsimo LoRA"
    judged_by = "shapes of Stable Diffusion 1"
    lacks = "layers that are not trained by default"
    alphas = False
    spelling = "down"
    signature = (Signature(rf"^{_KEY.pattern}$", "a cloneofsimo LoRA"),)

    def sniff(self, source: Checkpoint) -> float:
        return 1.0 if _is_list(source) else super().sniff(source)

    def read(self, source: Checkpoint) -> Adapter:
        tokens = {key: tensor for key, tensor in source.tensors.items() if _TOKEN.fullmatch(key)}
        keys = _of_list(source) if _is_list(source) else {key: key for key in source.tensors if key not in tokens}
        tensors = {}
        for key, original in keys.items():
            found = _KEY.fullmatch(key)
            if found is None:
                raise CheckpointError(
                    f"{source.weights}: the key {key} has no meaning in {self.title}",
                    hint="expected unet:N:down, unet:N:up, text_encoder:N:down, ... and <token>",
                )
            tensors[f"{found[1]}:{found[2]}.{found[3]}.weight"] = source.tensors[original]
        adapter = super().read(replace(source, tensors=tensors))
        _check_shapes(adapter, source)
        extras = {f"{PREFIX}{_TOKENS}.{key}": tensor for key, tensor in tokens.items()}
        return replace(adapter, extras=extras, meta=replace(adapter.meta, header=None))

    def names(self, stems: Iterable[str], source: Checkpoint) -> Mapping[str, str]:
        numbers: dict[str, set[int]] = {}
        for stem in stems:
            component, _, number = stem.partition(":")
            numbers.setdefault(component, set()).add(int(number))
        layers = {component: _named(component, found, source) for component, found in numbers.items()}
        return {f"{c}:{n}": f"{c}.{layers[c][n]}" for c, found in numbers.items() for n in found}

    def effects(self, adapter: Adapter) -> Effects:
        """Vectors of new tokens change nothing that the base has."""
        return Effects({key: Effect("ignore", key.removeprefix(PREFIX)) for key in adapter.extras})


def _check_shapes(adapter: Adapter, source: Checkpoint) -> None:
    """Refuse a UNet whose layers have not the shapes that their numbers would give them.

    Raises:
        RefusedError: by the first such layer.
    """
    for name, factors in adapter.modules.items():
        out, width = factors.shape
        geglu, across = name.endswith("ff.net.0.proj"), name.endswith(("attn2.to_k", "attn2.to_v"))
        if (geglu and out != 8 * width) or not (geglu or across or out == width):
            raise RefusedError(
                f"{source.weights}: the layer that would be {name} by its number has shape {[out, width]}, so that it "
                "is another",
                hint="convert it with the program that trained it",
            )


def _is_list(source: Checkpoint) -> bool:
    """Whether a file is a list of pairs of factors, up before down."""
    tensors = list(source.tensors.values())
    if not tensors or len(tensors) % 2 or list(source.tensors) != [str(n) for n in range(len(tensors))]:
        return False
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return all(up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0] for up, down in pairs)


def _of_list(source: Checkpoint) -> dict[str, str]:
    """The keys that a safetensors file would have, with the numbers in the list."""
    component = "text_encoder" if "text_encoder" in source.weights.name else "unet"
    return {f"{component}:{n // 2}:{'down' if n % 2 else 'up'}": str(n) for n in range(len(source.tensors))}


def _named(component: str, numbers: set[int], source: Checkpoint) -> tuple[str, ...]:
    """The layers of a component in the order of their numbers.

    Raises:
        RefusedError: if they are not those that are trained by default.
    """
    count = len(numbers)
    if numbers == set(range(count)):
        if component == "text_encoder" and count % len(_CLIP) == 0:
            layers = (f"text_model.encoder.layers.{layer}.self_attn" for layer in range(count // 4))
            return tuple(f"{layer}.{name}" for layer in layers for name in _CLIP)
        if component == "unet" and count in _UNETS:
            return _UNETS[count]
    raise RefusedError(
        f"{source.weights}: has {count} layers of {component}, expected {' or '.join(map(str, _UNETS))} of a UNet and "
        "4 for each layer of a text encoder, so that their numbers do not tell their names",
        hint="convert it with the program that trained it",
    )


DIALECT = _Cloneofsimo()
