"""Every layer of diffusers' full-size models has a rule, and its sizes are those of its family; Stable Diffusion 3's
own conversion makes the same of the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adaptzip
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.checkpoints._image.rules import numbered
from adaptzip.checkpoints._image.spellings import to_diffusers
from adaptzip.checkpoints._image.telling import diffusers_family

diffusers = pytest.importorskip("diffusers", reason="diffusers is in the environment of the oracles")
converters: Any = pytest.importorskip(
    "diffusers.loaders.single_file_utils", reason="diffusers is in the environment of the oracles"
)
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]

BY_TITLE = {family.title: family for family in FAMILIES}
SD3 = {"joint_attention_dim": 4096, "out_channels": 16}
MEDIUM = {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
MODELS: Mapping[str, tuple[str, Callable[[], Any]]] = {
    "flux": ("Flux", lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True)),
    "sd3": ("Stable Diffusion 3", lambda: diffusers.SD3Transformer2DModel(**MEDIUM)),
    "sd3.5 medium": ("Stable Diffusion 3", lambda: diffusers.SD3Transformer2DModel(
        dual_attention_layers=tuple(range(13)), **MEDIUM)),
    "sd3.5 large": ("Stable Diffusion 3", lambda: diffusers.SD3Transformer2DModel(
        num_layers=38, num_attention_heads=38, caption_projection_dim=2432, **SD3)),
    "wan 14b": ("Wan", lambda: diffusers.WanTransformer3DModel(image_dim=1280, added_kv_proj_dim=5120)),
    "wan 1.3b": ("Wan", lambda: diffusers.WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30)),
    "qwen": ("Qwen-Image", lambda: diffusers.QwenImageTransformer2DModel()),
    "z-image": ("Z-Image", lambda: diffusers.ZImageTransformer2DModel()),
    "flux 2": ("Flux 2", lambda: diffusers.Flux2Transformer2DModel()),
    "hunyuan": ("HunyuanVideo", lambda: diffusers.HunyuanVideoTransformer3DModel(guidance_embeds=True)),
    "lumina": ("Lumina 2", lambda: diffusers.Lumina2Transformer2DModel(
        hidden_size=2304, num_layers=26, num_attention_heads=24, num_kv_heads=8, cap_feat_dim=2304)),
    "krea": ("Krea 2", lambda: diffusers.Krea2Transformer2DModel()),
    "anima": ("Anima", lambda: diffusers.CosmosTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=16, num_layers=28, adaln_lora_dim=256)),
}  # fmt: skip


def layers(model: nn.Module) -> dict[str, Tensor]:
    """The weights of what LoRA updates."""
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d)
    return {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, kinds)}


@pytest.mark.parametrize("kind", MODELS)
def test_every_layer_has_a_rule_and_the_size_that_tells_it(kind: str) -> None:
    title, make = MODELS[kind]
    with torch.device("meta"):
        found = layers(make())
        modules = {
            name: adaptzip.LoraFactors(torch.empty(1, weight[0].numel()), torch.empty(len(weight), 1))
            for name, weight in found.items()
        }
    parts = BY_TITLE[title].parts
    assert [name for name in found if numbered(name)[0] not in parts and name not in parts] == []
    assert diffusers_family(modules) is BY_TITLE[title]


def test_the_weights_of_stable_diffusion_3_are_cut_and_turned_as_diffusers_does_it() -> None:
    width, blocks = 8, 2
    generator = torch.Generator().manual_seed(0)
    sizes = {
        "attn.qkv": (3, 1),
        "attn.proj": (1, 1),
        "adaLN_modulation.1": (6, 1),
        "mlp.fc1": (4, 1),
        "mlp.fc2": (1, 4),
    }
    last = {"attn.qkv": (3, 1), "adaLN_modulation.1": (2, 1)}
    shapes = {
        f"joint_blocks.{block}.{side}_block.{name}": shape
        for block in range(blocks)
        for side in ("x", "context")
        for name, shape in (last if block == blocks - 1 and side == "context" else sizes).items()
    }
    for name in ("t_embedder.mlp.0", "t_embedder.mlp.2", "y_embedder.mlp.0", "y_embedder.mlp.2", "context_embedder"):
        shapes[name] = (1, 1)
    shapes |= {"x_embedder.proj": (1, 1), "final_layer.linear": (1, 1), "final_layer.adaLN_modulation.1": (2, 1)}
    weights = {
        name: torch.randn(out * width, ins * width, generator=generator) for name, (out, ins) in sorted(shapes.items())
    }
    checkpoint = {f"{name}.weight": weight.clone() for name, weight in weights.items()}
    checkpoint |= {f"{name}.bias": weight[:, 0].clone() for name, weight in weights.items()}
    checkpoint["pos_embed"] = torch.zeros(1, 4, width)

    theirs = converters.convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    ours = to_diffusers(
        {
            f"diffusion_model.{name}": adaptzip.LoraFactors(torch.eye(weight.shape[1]), weight)
            for name, weight in weights.items()
        }
    )

    wanted = {key.removesuffix(".weight"): tensor for key, tensor in theirs.items() if key.endswith(".weight")}
    assert {name.removeprefix("transformer.") for name in ours} == wanted.keys()
    for name, factors in ours.items():
        assert torch.equal(factors.delta(), wanted[name.removeprefix("transformer.")]), name
