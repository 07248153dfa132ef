"""A small adapter to begin with, what can befall its tensors, and when two are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from adaptzip.checkpoints import PREFIX
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import same_bits
from adaptzip.core.meta import Meta

HEAD = f"{PREFIX}score.weight"
"""The extra of `small_adapter`, by the key that PEFT would give it."""
STRANGE = "unheard_of."
"""What makes a key one of nobody's."""
Change = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""What becomes of the tensors of a file."""


def pipeline_adapters() -> tuple[Adapter, ...]:
    """Adapters of image pipelines, for dialects that have names for nothing else: of Flux, and of a UNet."""
    flux = {f"diffusion_model.double_blocks.0.{side}_attn.proj": _linear(16, 16, side) for side in ("img", "txt")}
    attention = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    unet = {f"{attention}.{name}": _linear(16, 16, name) for name in ("to_k", "to_q")}
    return Adapter(flux, meta=Meta("comfyui")), Adapter(unet, meta=Meta("attention-processors"))


def _linear(out: int, width: int, name: str) -> LoraFactors:
    generator = torch.Generator().manual_seed(len(name))
    return LoraFactors(torch.randn(2, width, generator=generator), torch.randn(out, 2, generator=generator))


def small_adapter(scaling: float = 0.5) -> Adapter:
    """Two linear layers of a decoder, (24, 16) and (8, 16), of rank 4, and the head of a classifier, in float32.

    Args:
        scaling: of both layers.
    """
    generator = torch.Generator().manual_seed(0)
    modules = {}
    for name, out in (("model.layers.0.self_attn.q_proj", 24), ("model.layers.0.self_attn.v_proj", 8)):
        A, B = (torch.randn(*shape, generator=generator) for shape in ((4, 16), (out, 4)))
        modules[name] = LoraFactors(A, B * 0.5 ** torch.arange(4.0), scaling)
    head = torch.randn(3, 16, generator=generator)
    return Adapter(modules, {HEAD: head}, Meta("peft", {"task_type": "SEQ_CLS"}, "someone/some-base"))


def renamed(key: str) -> Change:
    """One key is another, which nobody knows."""
    return lambda tensors: {STRANGE + name if name == key else name: tensor for name, tensor in tensors.items()}


def without(key: str) -> Change:
    """One tensor is missing."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key}


def with_nan(key: str) -> Change:
    """One tensor is all NaN."""
    return lambda tensors: {**tensors, key: torch.full_like(tensors[key], float("nan"))}


def alike(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters are the same in every bit of their updates and extras."""
    if one.modules.keys() != other.modules.keys():
        return False
    pairs = [(module, other.modules[name]) for name, module in one.modules.items()]
    same = all(same_bits(a.A, b.A) and same_bits(a.B, b.B) and a.scaling == b.scaling for a, b in pairs)
    return same and same_tensors(one.extras, other.extras)


def by_target(adapter: Adapter) -> dict[str, Tensor]:
    """The extras by what they do to which tensor of the base."""
    effects = adapter.resolved.extras
    return {f"{effects[key].role} {effects[key].tensor}": tensor for key, tensor in adapter.extras.items()}


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the same names, dtypes, shapes and bits."""
    return one.keys() == other.keys() and all(same_bits(tensor, other[name]) for name, tensor in one.items())
