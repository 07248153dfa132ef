"""LoRAs in original models' names, brought into diffusers': its full-size models, without memory, have these layers,
and its own converters, where they work, make the same update of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

import adaptzip

diffusers = pytest.importorskip("diffusers", reason="diffusers is in the environment of the oracles")
loaders = pytest.importorskip(
    "diffusers.loaders.lora_pipeline", reason="diffusers is in the environment of the oracles"
)
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]

Shapes = Mapping[str, Sequence[int]]
DOWN = (".lora_A.weight", ".lora_down.weight", ".down.weight")
UP = (".lora_B.weight", ".lora_up.weight", ".up.weight")
RANK = 2


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """Numbers for keys, with the widths of a real file at a low rank."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, size in shapes.items():
        shape = list(size)
        if key.endswith((*DOWN, *UP)):
            shape[0 if key.endswith(DOWN) else 1] = RANK
        tensors[key] = torch.randn(*shape, generator=generator) if shape else torch.tensor(2.0 * RANK)
    return tensors


def written(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """What we write of a file for diffusers, without what lies beside the factors."""
    save_file(dict(tensors), folder / "x.safetensors")
    report = adaptzip.export(folder / "x.safetensors", folder / "out", as_="diffusers", drop_extras=True)
    return load_file(report.path / report.files[0])


FULL: Mapping[str, Callable[[], Any]] = {
    "flux": lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True),
    "flux control": lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True, in_channels=128, out_channels=64),
    "qwen": lambda: diffusers.QwenImageTransformer2DModel(),
    "sd3": lambda: diffusers.SD3Transformer2DModel(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536, joint_attention_dim=4096, out_channels=16
    ),
    "wan": lambda: diffusers.WanTransformer3DModel(),
    "z-image": lambda: diffusers.ZImageTransformer2DModel(),
}


def check_layers(kind: str, tensors: Mapping[str, Tensor]) -> None:
    """Each factor is of a layer that the model has, and as wide as it."""
    with torch.device("meta"):
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
        models: dict[str, nn.Module] = {
            "transformer": FULL[kind](),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes)),
        }
    layers = {f"{part}.{name}": layer for part, model in models.items() for name, layer in model.named_modules()}
    assert tensors
    for key, tensor in tensors.items():
        name, _, part = key.replace(".text_model.", ".").partition(".lora_")  # As diffusers does for transformers 5.
        weight = layers[name].weight
        assert isinstance(weight, Tensor)
        wanted = {
            "A.weight": [RANK, *weight.shape[1:]],
            "B.weight": [len(weight), RANK, *(1 for _ in weight.shape[2:])],
            "B.bias": [len(weight)],
        }
        assert list(tensor.shape) == wanted[part], key


FILES = {
    "flux_control_lora_format": "flux control",
    "flux_lora_aitoolkit_format": "flux",
    "flux_lora_diffusers_base_model_format": "flux",
    "flux_lora_diffusers_format": "flux",
    "flux_lora_diffusers_no_proj_mlp_format": "flux",
    "flux_lora_kohya_format": "flux",
    "flux_lora_kohya_with_te1_format": "flux",
    "flux_lora_xlabs_format": "flux",
    "qwen_image_lora_diffusers_format": "qwen",
}


@pytest.mark.parametrize("name", FILES)
def test_the_keys_of_other_peoples_files_are_layers_of_the_model(name: str, material: Path, tmp_path: Path) -> None:
    shapes = json.loads((material / "keydumps" / f"{name}.json").read_text())
    check_layers(FILES[name], written(filled(shapes), tmp_path))


def blocks(names: Sequence[str], layers: Shapes) -> dict[str, Sequence[int]]:
    """The layers (out, in) of several blocks."""
    return {f"{block}.{name}": shape for block in names for name, shape in layers.items()}


ORIGINAL: Mapping[str, Shapes] = {
    "flux": {
        "img_in": (3072, 64), "guidance_in.in_layer": (3072, 256), "final_layer.adaLN_modulation.1": (6144, 3072),
        **blocks(["double_blocks.18"], {
            "img_attn.qkv": (9216, 3072), "txt_attn.proj": (3072, 3072), "img_mod.lin": (18432, 3072),
            "txt_mlp.2": (3072, 12288)}),
        **blocks(["single_blocks.37"], {"linear1": (21504, 3072), "linear2": (3072, 15360)}),
    },
    "qwen": blocks(["transformer_blocks.59"], {
        "attn.to_q": (3072, 3072), "attn.add_v_proj": (3072, 3072), "img_mlp.net.0.proj": (12288, 3072),
        "txt_mod.1": (18432, 3072)}),
    "sd3": {
        "x_embedder.proj": (1536, 16, 2, 2), "y_embedder.mlp.0": (1536, 2048), "context_embedder": (1536, 4096),
        "final_layer.linear": (64, 1536), "final_layer.adaLN_modulation.1": (3072, 1536),
        **blocks([f"joint_blocks.{n}.{side}_block" for n in (0, 22) for side in ("x", "context")], {
            "attn.qkv": (4608, 1536), "attn.proj": (1536, 1536), "mlp.fc1": (6144, 1536), "mlp.fc2": (1536, 6144)}),
    },
    "wan": {
        "patch_embedding": (5120, 16, 1, 2, 2), "text_embedding.0": (5120, 4096), "time_embedding.2": (5120, 5120),
        "time_projection.1": (30720, 5120), "head.head": (64, 5120),
        **blocks(["blocks.0", "blocks.39"], {
            "self_attn.q": (5120, 5120), "cross_attn.o": (5120, 5120), "ffn.0": (13824, 5120), "ffn.2": (5120, 13824)}),
    },
    "z-image": blocks(["layers.29", "noise_refiner.1", "context_refiner.0"], {
        "attention.qkv": (11520, 3840), "attention.out": (3840, 3840), "feed_forward.w2": (3840, 10240)}),
}  # fmt: skip
"""Layers (out, in, kernel) by the names and in the sizes of the original implementations."""


@pytest.mark.parametrize("stem", ["diffusion_model.{}", "lora_unet_{}"])
@pytest.mark.parametrize("kind", ORIGINAL)
def test_original_layers_are_layers_of_the_model(kind: str, stem: str, tmp_path: Path) -> None:
    comfyui = stem.startswith("diffusion")
    shapes: dict[str, Sequence[int]] = {}
    for path, (out, width, *kernel) in ORIGINAL[kind].items():
        name = stem.format(path if comfyui else path.replace(".", "_"))
        shapes[f"{name}{DOWN[0 if comfyui else 1]}"] = (RANK, width, *kernel)
        shapes[f"{name}{UP[0 if comfyui else 1]}"] = (out, RANK, *(1 for _ in kernel))
    check_layers(kind, written(filled(shapes), tmp_path))


WORKING: Mapping[str, set[str]] = {
    "flux_lora_kohya_format": set(),
    "flux_lora_kohya_with_te1_format": set(),
    "flux_lora_xlabs_format": set(),
    # diffusers swaps the halves of A's rows, which are ranks, as well as of B's, which are outputs.
    "flux_control_lora_format": {"transformer.norm_out.linear"},
}
"""Files that diffusers converts itself, and the layers that it makes something else of."""


@pytest.mark.parametrize("name", WORKING)
def test_diffusers_own_converter_makes_the_same_update(name: str, material: Path, tmp_path: Path) -> None:
    tensors = filled(json.loads((material / "keydumps" / f"{name}.json").read_text()))
    theirs = loaders.FluxLoraLoaderMixin.lora_state_dict(dict(tensors))
    ours = written(tensors, tmp_path)
    modules = _transformers(theirs)
    assert modules == _transformers(ours)
    others = {module for module in modules if _apart(module, ours, theirs) > 1e-5}
    assert others == WORKING[name]


def _transformers(tensors: Mapping[str, Tensor]) -> set[str]:
    """The modules of the transformer."""
    return {key.removesuffix(DOWN[0]) for key in tensors if key.startswith("transformer.") and key.endswith(DOWN[0])}


def _apart(module: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The relative difference of two updates on random inputs."""
    x = torch.randn(ours[f"{module}{DOWN[0]}"].shape[1], 4, generator=torch.Generator().manual_seed(1))
    one, other = (found[f"{module}{UP[0]}"] @ (found[f"{module}{DOWN[0]}"] @ x) for found in (ours, theirs))
    return float((one - other).norm() / other.norm())
