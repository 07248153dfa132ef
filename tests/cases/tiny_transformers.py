"""Tiny transformers of diffusers' image models, and how diffusers loads a LoRA onto one. They are in the environment of
the oracles alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

diffusers = pytest.importorskip("diffusers", reason="diffusers is in the environment of the oracles")
loaders = pytest.importorskip(
    "diffusers.loaders.lora_pipeline", reason="diffusers is in the environment of the oracles"
)


def flux() -> Any:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip


def sd3() -> Any:
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip


def qwen() -> Any:
    torch.manual_seed(0)
    return diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip


def wan() -> Any:
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )  # fmt: skip


TRANSFORMERS = {
    "flux": (flux, loaders.FluxLoraLoaderMixin),
    "sd3": (sd3, loaders.SD3LoraLoaderMixin),
    "qwen": (qwen, loaders.QwenImageLoraLoaderMixin),
    "wan": (wan, loaders.WanLoraLoaderMixin),
}


def load_file(mixin: Any, model: nn.Module, folder: Path, name: str) -> None:
    """Load a file onto a model."""
    load(mixin, model, str(folder), weight_name=name)


def load(mixin: Any, model: nn.Module, source: str | dict[str, Tensor], **options: Any) -> None:
    """Load a file, or tensors by their keys, onto a model."""
    state, metadata = mixin.lora_state_dict(source, return_lora_metadata=True, **options)
    alphas = {"network_alphas": None} if mixin is loaders.FluxLoraLoaderMixin else {}
    mixin.load_lora_into_transformer(state, transformer=model, adapter_name="x", metadata=metadata, **alphas)


def loaded(model: nn.Module) -> dict[str, Tensor]:
    """The update of each layer that has one."""
    return {
        name: layer.get_delta_weight(layer.active_adapters[0]).detach()
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }
