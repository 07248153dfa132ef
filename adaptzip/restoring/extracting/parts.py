"""What a tuned model's tensors are to an adapter: modules with an update of low rank, or kept whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from adaptzip.core.layouts import TRANSPOSED_EXPERT_TYPES, TURNED, Layout
from adaptzip.models.folder import BaseModel
from adaptzip.models.layouts import stores_turned
from adaptzip.models.names import EXPERT_STACKS, Location

_EMBEDDING = re.compile(
    r"(embed_(tokens|positions|in)\w*|wte|wpe|(tokens|positions)_embed|shared|relative_attention_bias"
    r"|(\w+_)?(word|token|tok|token_type|position|positional|segment|entity|lang)_embeddings?)"
)
"""What modules are called that look rows up; those of transformers' and diffusers' models."""
_STACKED = re.compile(r"\.experts\.(?!\d)[^.]+$")


@dataclass(frozen=True)
class Part:
    """A module whose update can have low rank.

    Attributes:
        name: the adapter's name for it; `<parameter>[<number>]` for one of stacked experts.
        place: where the tuned model stores its weight.
        layout: how it lies there.
        kernel: the kernel of a convolution, else ().
        shape: (out, in) of the update.
    """

    name: str
    place: Location
    layout: Layout
    kernel: tuple[int, ...]
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """Numbers of its weight."""
        return self.shape[0] * self.shape[1]


def parts_of(model: BaseModel, tensor: str) -> tuple[Part, ...]:
    """The modules whose weight a stored tensor is: one, one for each of stacked experts, or none.

    None are what has one dimension, a convolution of one channel for each output, a parameter that belongs to no
    linear layer, and what is no float.
    """
    stored = model.stored(tensor)
    shape = stored.shape
    if not stored.dtype.is_floating_point or len(shape) < 2 or 0 in shape:
        return ()
    stack = _stack(tensor, shape)
    if stack is not None:
        return tuple(_experts(model, tensor, stack, shape))
    if not tensor.endswith(".weight") or (len(shape) > 2 and shape[1] == 1):
        return ()
    name = tensor.removesuffix(".weight")
    layout: Layout = "conv" if len(shape) > 2 else "linear"
    if len(shape) == 2 and is_embedding(model, tensor):
        layout = "embedding"
    elif len(shape) == 2 and stores_turned(model, name):
        layout = "transposed"
    return (Part(name, Location(tensor), layout, shape[2:], _out_in(shape, layout)),)


def is_embedding(model: BaseModel, tensor: str) -> bool:
    """Whether rows are looked up in a tensor."""
    module = tensor.removesuffix(".weight").rpartition(".")[2]
    return tensor == model.input_embedding or _EMBEDDING.fullmatch(module) is not None


def _stack(tensor: str, shape: tuple[int, ...]) -> str | None:
    """What PEFT calls the parameter that stacks experts, or None."""
    if len(shape) == 3 and tensor.endswith(tuple(EXPERT_STACKS.values())):
        return next(tensor.removesuffix(end) + name for name, end in EXPERT_STACKS.items() if tensor.endswith(end))
    stacked = len(shape) in (2, 3) and _STACKED.search(tensor) and not tensor.endswith(("bias", "weight"))
    return tensor if stacked else None


def _experts(model: BaseModel, tensor: str, stack: str, shape: tuple[int, ...]) -> Iterator[Part]:
    layout: Layout = "expert_transposed" if model.model_type in TRANSPOSED_EXPERT_TYPES else "expert"
    if len(shape) == 2:
        yield Part(f"{stack}[0]", Location(tensor), "expert", (), _out_in(shape, "expert"))
        return
    for number in range(shape[0]):
        yield Part(f"{stack}[{number}]", Location(tensor, expert=number), layout, (), _out_in(shape[1:], layout))


def _out_in(shape: tuple[int, ...], layout: Layout) -> tuple[int, int]:
    width = 1
    for size in shape[1:]:
        width *= size
    return (width, shape[0]) if layout in TURNED else (shape[0], width)
