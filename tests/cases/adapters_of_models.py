"""Small adapters of many models, in names of their own, which show what a dialect can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta

_PREFIX = "base_model.model."
Shapes = Mapping[str, tuple[int, ...]]
"""(out, in) by name; with a kernel after them for a convolution."""


def _made(dialect: str, shapes: Shapes, *, layouts: Mapping[str, Layout] | None = None) -> Adapter:
    """Random updates whose ranks and scales differ from module to module."""
    generator = torch.Generator().manual_seed(0)
    modules = {}
    for number, (name, (out, width, *kernel)) in enumerate(sorted(shapes.items())):
        rank = 2 + number % 2
        A = torch.randn(rank, width * int(torch.tensor(kernel).prod()) if kernel else width, generator=generator)
        B = torch.randn(out, rank, generator=generator)
        layout: Layout = "conv" if kernel else (layouts or {}).get(name, "linear")
        modules[name] = LoraFactors(A, B, (1.0, 0.75, 2.0)[number % 3], layout, tuple(kernel))
    return Adapter(modules, meta=Meta(dialect))


def _square(names: Iterable[str], width: int = 16) -> Shapes:
    return dict.fromkeys(names, (width, width))


def _dora(adapter: Adapter) -> Adapter:
    """With magnitudes of the outputs."""
    modules = {name: replace(m, magnitude=torch.arange(1.0, 1 + m.shape[0])) for name, m in adapter.modules.items()}
    return replace(adapter, modules=modules)


def _beside(adapter: Adapter, extras: Mapping[str, Tensor]) -> Adapter:
    return replace(adapter, extras={_PREFIX + name: tensor for name, tensor in extras.items()})


LLAMA_CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": False,
}
"""Whose layers the adapters of a llama have."""
_LLAMA = {
    **{f"model.layers.{layer}.self_attn.{name}_proj": (rows, 16) for layer in (0, 1) for name, rows in (
        ("q", 32), ("k", 16), ("v", 16))},
    "model.layers.1.mlp.up_proj": (24, 16),
    "model.layers.1.mlp.down_proj": (16, 24),
}  # fmt: skip
_EMBEDDING = "model.embed_tokens"

_CLIP = ("text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc1")
_T5 = ("encoder.block.0.layer.0.SelfAttention.q", "encoder.block.1.layer.1.DenseReluDense.wi_0")
_ATTENTION = "attentions.0.transformer_blocks.0"
_SD1_ATTENTION = {
    f"unet.down_blocks.0.{_ATTENTION}.attn1.to_q": (16, 16),
    f"unet.down_blocks.0.{_ATTENTION}.attn1.to_out.0": (16, 16),
    f"unet.mid_block.{_ATTENTION}.attn2.to_k": (16, 24),
    f"unet.up_blocks.3.{_ATTENTION}.attn2.to_v": (16, 24),
}
_SD1 = {
    **_SD1_ATTENTION,
    "unet.down_blocks.0.attentions.1.proj_in": (16, 16, 1, 1),
    "unet.down_blocks.1.downsamplers.0.conv": (16, 16, 3, 3),
    "unet.mid_block.resnets.0.time_emb_proj": (16, 32),
    "unet.up_blocks.2.resnets.2.conv_shortcut": (16, 8, 1, 1),
    "unet.conv_in": (16, 4, 3, 3),
}
_SDXL = {
    f"unet.down_blocks.1.{_ATTENTION}.attn1.to_q": (16, 16),
    "unet.down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj": (48, 16),
    "unet.mid_block.attentions.0.proj_out": (16, 16),
    f"unet.up_blocks.0.{_ATTENTION}.attn2.to_k": (16, 32),
    "unet.up_blocks.1.upsamplers.0.conv": (16, 16, 3, 3),
    "unet.add_embedding.linear_1": (16, 24),
}
_JOINT, _SINGLE = "transformer.transformer_blocks.1", "transformer.single_transformer_blocks.0"
_FLUX_ATTENTION = {
    **{f"{_JOINT}.attn.{name}": (16, 16) for name in (
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_v_proj", "to_add_out")},
    **{f"{_SINGLE}.attn.{name}": (16, 16) for name in ("to_q", "to_k")},
    f"{_SINGLE}.proj_out": (16, 80),
}  # fmt: skip
_FLUX = {
    **_FLUX_ATTENTION,
    f"{_JOINT}.ff.net.0.proj": (64, 16),
    f"{_JOINT}.ff_context.net.2": (16, 64),
    f"{_JOINT}.norm1.linear": (96, 16),
    f"{_SINGLE}.proj_mlp": (64, 16),
    f"{_SINGLE}.norm.linear": (48, 16),
    "transformer.x_embedder": (16, 8),
    "transformer.time_text_embed.guidance_embedder.linear_2": (16, 16),
    "transformer.norm_out.linear": (32, 16),
    "transformer.proj_out": (8, 16),
}
_SD3 = {
    **{f"{_JOINT}.attn.{name}": (16, 16) for name in ("to_q", "to_v", "to_out.0", "add_k_proj", "to_add_out")},
    f"{_JOINT}.attn2.to_q": (16, 16),
    f"{_JOINT}.ff_context.net.0.proj": (64, 16),
    f"{_JOINT}.norm1.linear": (144, 16),
    "transformer.pos_embed.proj": (16, 4, 2, 2),
    "transformer.norm_out.linear": (32, 16),
}
_QWEN = {
    f"{_JOINT}.attn.to_q": (16, 16),
    f"{_JOINT}.attn.add_k_proj": (16, 16),
    f"{_JOINT}.attn.to_add_out": (16, 16),
    f"{_JOINT}.img_mlp.net.0.proj": (64, 16),
    f"{_JOINT}.txt_mod.1": (96, 16),
}
_WAN = {
    "transformer.blocks.0.attn1.to_q": (16, 16),
    "transformer.blocks.0.attn2.to_out.0": (16, 16),
    "transformer.blocks.1.attn2.add_k_proj": (16, 16),
    "transformer.blocks.1.ffn.net.0.proj": (64, 16),
    "transformer.condition_embedder.time_proj": (96, 16),
    "transformer.patch_embedding": (16, 4, 1, 2, 2),
}
_Z_IMAGE = {
    **{f"transformer.layers.1.attention.{name}": (16, 16) for name in ("to_q", "to_k", "to_out.0")},
    "transformer.context_refiner.0.attention.to_v": (16, 16),
    "transformer.noise_refiner.1.feed_forward.w1": (40, 16),
    "transformer.layers.0.adaLN_modulation.0": (64, 8),
}
_ENCODERS = {
    **{f"text_encoder.{name}": (16, 16) for name in _CLIP},
    **{f"text_encoder_2.{name}": (16, 16) for name in _T5},
}
_TWO_CLIPS = {f"{encoder}.{name}": (16, 16) for encoder in ("text_encoder", "text_encoder_2") for name in _CLIP}
_NORM = "unet.down_blocks.0.resnets.0.norm1"

ADAPTERS: Mapping[str, Adapter] = {
    "a llama": _made("peft", _LLAMA),
    "a llama with a head": _beside(_made("peft", _LLAMA), {"score.weight": torch.randn(3, 16)}),
    "a llama with DoRA": _dora(_made("peft", _LLAMA)),
    "a llama with an embedding": _made("peft", {**_LLAMA, _EMBEDDING: (16, 40)}, layouts={_EMBEDDING: "embedding"}),
    "a CLIP": _made("peft", _square(_CLIP)),
    "a UNet by PEFT": _made("peft", {name.removeprefix("unet."): shape for name, shape in _SD1.items()}),
    "Stable Diffusion 1": _made("diffusers", {**_SD1, **{f"text_encoder.{name}": (16, 16) for name in _CLIP}}),
    "the attention of Stable Diffusion 1": _made("diffusers", _SD1_ATTENTION),
    "Stable Diffusion 1 with DoRA": _dora(_made("diffusers", _SD1_ATTENTION)),
    "Stable Diffusion 1 with a norm": _beside(
        _made("kohya", _SD1_ATTENTION), {f"{_NORM}.{leaf}": torch.randn(16) for leaf in ("weight", "bias")}
    ),
    "SDXL": _made("diffusers", {**_SDXL, **_TWO_CLIPS}),
    "Flux": _made("diffusers", _FLUX),
    "the attention of Flux": _made("diffusers", _FLUX_ATTENTION),
    "Flux with its text encoders": _made("diffusers", {**_FLUX, **_ENCODERS}),
    "Stable Diffusion 3": _made("diffusers", _SD3),
    "Qwen-Image": _made("diffusers", _QWEN),
    "Wan": _made("diffusers", _WAN),
    "Z-Image": _made("diffusers", _Z_IMAGE),
}
