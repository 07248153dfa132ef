"""Tiny base models of images, of random numbers: files in original names and pipelines' folders, and their adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, Tensor]
D = 32
"""The width of a model; Flux has layers of 3, 4 and 7 times as many outputs."""

FLUX_FILE: Shapes = {
    "double_blocks.0.img_attn.qkv.weight": (3 * D, D),
    "double_blocks.0.img_attn.qkv.bias": (3 * D,),
    "double_blocks.0.img_attn.proj.weight": (D, D),
    "double_blocks.0.img_mod.lin.weight": (6 * D, D),
    "double_blocks.0.img_mlp.0.weight": (4 * D, D),
    "double_blocks.0.img_mlp.2.weight": (D, 4 * D),
    "single_blocks.0.linear1.weight": (7 * D, D),
    "single_blocks.0.linear2.weight": (D, 5 * D),
    "single_blocks.0.modulation.lin.weight": (3 * D, D),
    "img_in.weight": (D, 8),
    "final_layer.adaLN_modulation.1.weight": (2 * D, D),
    "final_layer.linear.weight": (8, D),
}
FLUX_FOLDER: Shapes = {
    **{f"transformer_blocks.0.attn.to_{name}.weight": (D, D) for name in ("q", "k", "v", "out.0")},
    **{f"transformer_blocks.0.attn.to_{name}.bias": (D,) for name in "qkv"},
    "transformer_blocks.0.norm1.linear.weight": (6 * D, D),
    "transformer_blocks.0.ff.net.0.proj.weight": (4 * D, D),
    "transformer_blocks.0.ff.net.2.weight": (D, 4 * D),
    **{f"single_transformer_blocks.0.attn.to_{name}.weight": (D, D) for name in "qkv"},
    "single_transformer_blocks.0.proj_mlp.weight": (4 * D, D),
    "single_transformer_blocks.0.proj_out.weight": (D, 5 * D),
    "single_transformer_blocks.0.norm.linear.weight": (3 * D, D),
    "x_embedder.weight": (D, 8),
    "norm_out.linear.weight": (2 * D, D),
    "proj_out.weight": (8, D),
}
UNET_FILE: Shapes = {
    "input_blocks.0.0.weight": (D, 4, 3, 3),
    "input_blocks.1.0.in_layers.2.weight": (D, D, 3, 3),
    "input_blocks.1.0.in_layers.2.bias": (D,),
    "input_blocks.1.1.proj_in.weight": (D, D, 1, 1),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight": (D, D),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (D, 768),
    "output_blocks.2.1.conv.weight": (D, D, 3, 3),
}
UNET_FOLDER: Shapes = {
    "conv_in.weight": (D, 4, 3, 3),
    "down_blocks.0.resnets.0.conv1.weight": (D, D, 3, 3),
    "down_blocks.0.resnets.0.conv1.bias": (D,),
    "down_blocks.0.attentions.0.proj_in.weight": (D, D, 1, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight": (D, D),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (D, 768),
    "up_blocks.0.upsamplers.0.conv.weight": (D, D, 3, 3),
}
_CLIP = "text_model.encoder.layers.0."
CLIP: Shapes = {
    **{f"{_CLIP}self_attn.{name}_proj.weight": (D, D) for name in ("q", "k", "v", "out")},
    **{f"{_CLIP}self_attn.{name}_proj.bias": (D,) for name in ("q", "k", "v", "out")},
    f"{_CLIP}mlp.fc1.weight": (48, D),
    "text_model.embeddings.token_embedding.weight": (50, D),
}
OPEN_CLIP: Shapes = {
    "transformer.resblocks.0.attn.in_proj_weight": (3 * D, D),
    "transformer.resblocks.0.attn.in_proj_bias": (3 * D,),
    "transformer.resblocks.0.attn.out_proj.weight": (D, D),
    "transformer.resblocks.0.mlp.c_fc.weight": (48, D),
    "token_embedding.weight": (50, D),
}
T5: Shapes = {"encoder.block.0.layer.0.SelfAttention.q.weight": (D, D), "shared.weight": (50, D)}
VAE: Shapes = {"decoder.conv_in.weight": (8, 4, 3, 3)}


def under(prefix: str, shapes: Shapes) -> Shapes:
    """With `prefix` before each name."""
    return {prefix + name: shape for name, shape in shapes.items()}


SD1_FILE: Shapes = {
    **under("model.diffusion_model.", UNET_FILE),
    **under("cond_stage_model.transformer.", CLIP),
    **under("first_stage_model.", VAE),
}
SDXL_TEXTS: Shapes = {
    **under("conditioner.embedders.0.transformer.", CLIP),
    **under("conditioner.embedders.1.model.", OPEN_CLIP),
}


def random(shapes: Shapes, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensors:
    """Random tensors of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def base_file(
    path: Path, shapes: Shapes, dtype: torch.dtype = torch.float32, metadata: dict[str, str] | None = None
) -> Tensors:
    """Write a base model of one file; its tensors."""
    tensors = random(shapes, dtype)
    save_file(tensors, path, metadata)
    return tensors


def pipeline(path: Path, components: Mapping[str, Shapes], variant: str = "") -> dict[str, Tensors]:
    """Write a pipeline's folder, with a scheduler and a tokenizer; the tensors of its models by component."""
    path.mkdir()
    index = {"_class_name": "APipeline", "scheduler": ["diffusers", "AScheduler"], "safety_checker": [None, None]}
    (path / "model_index.json").write_text(json.dumps(index | {name: ["diffusers", "AModel"] for name in components}))
    (path / "README.md").write_text("# A pipeline\n")
    for folder, name in (("scheduler", "scheduler_config.json"), ("tokenizer", "vocab.json")):
        (path / folder).mkdir()
        (path / folder / name).write_text("{}")
    found = {}
    for seed, (name, shapes) in enumerate(components.items()):
        (path / name).mkdir()
        of_text = name.startswith("text_encoder")
        (path / name / "config.json").write_text("{}" if of_text else '{"_class_name": "AModel"}')
        found[name] = random(shapes, seed=seed)
        stem = "model" if of_text else "diffusion_pytorch_model"
        save_file(found[name], path / name / f"{stem}{variant}.safetensors", {"format": "pt"})
    return found


def stored(folder: Path) -> Tensors:
    """The tensors of a component's folder."""
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def lora(shapes: Shapes, rank: int = 2, seed: int = 9, dialect: str = "diffusers") -> Adapter:
    """A random adapter of modules, by name, with the shapes of the weights that they change."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for number, (name, (out, *rest)) in enumerate(sorted(shapes.items())):
        width = torch.Size(rest).numel()
        modules[name] = LoraFactors(
            torch.randn(rank, width, generator=generator),
            torch.randn(out, rank, generator=generator),
            scaling=(0.5, 1.5)[number % 2],
            layout="conv" if len(rest) > 1 else "linear",
            kernel=tuple(rest[1:]),
        )
    return Adapter(modules, meta=Meta(dialect))


def modules(component: str, shapes: Shapes) -> Shapes:
    """The names of a component's modules in an adapter of a pipeline, with the shapes of their weights."""
    ending = ".weight"
    weights = {n.removesuffix(ending): s for n, s in shapes.items() if n.endswith(ending) and len(s) > 1}
    return {f"{component}.{name}": shape for name, shape in weights.items() if "embedding" not in name}
