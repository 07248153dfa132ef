"""Weights of image models in the names of their original implementations, made of weights in diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.rules import Family, numbered

Tensors = dict[str, Tensor]
_BLOCK = re.compile(r"^(?:text_model\.)?encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$")
_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1", "layer_norm2": "ln_2",
}  # fmt: skip
_TOP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_NORMS = (
    (
        re.compile(r"^transformer_blocks\.(\d+)\.attn\.norm_([qk])\.weight$"),
        "double_blocks.{}.img_attn.norm.{}_norm.scale",
    ),
    (
        re.compile(r"^transformer_blocks\.(\d+)\.attn\.norm_added_([qk])\.weight$"),
        "double_blocks.{}.txt_attn.norm.{}_norm.scale",
    ),
    (
        re.compile(r"^single_transformer_blocks\.(\d+)\.attn\.norm_([qk])\.weight$"),
        "single_blocks.{}.norm.{}_norm.scale",
    ),
)
"""Flux's norms of queries and keys."""


def original_unet(weights: Mapping[str, Tensor], *, deep: bool) -> Tensors:
    """A UNet of Stable Diffusion; `deep` for SDXL's."""
    found = {}
    for name, tensor in weights.items():
        path, _, leaf = name.rpartition(".")
        original = unet.to_original(path, attention_below=deep)
        assert original is not None, name
        found[f"{original}.{leaf}"] = tensor
    return found


def original_transformer(weights: Mapping[str, Tensor], family: Family) -> Tensors:
    """A transformer of a family, whose layers without a rule keep their names."""
    found: Tensors = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in weights.items():
        path, _, leaf = name.rpartition(".")
        rule, place = family.of_diffusers(path) or (None, 0)
        if rule is None:
            found[_norm(name) if family.title == "Flux" else name] = tensor
        else:
            parts.setdefault(f"{rule.original.replace('#', numbered(path)[1])}.{leaf}", {})[place] = tensor
    for name, tensors in parts.items():
        rule = family.of_original(name.rpartition(".")[0])
        whole = torch.cat([tensors[place] for place in sorted(tensors)])
        swapped = rule is not None and rule.halves_swapped and rule.swapped_ratio is None
        found[name] = torch.cat(whole.chunk(2)[::-1]) if swapped else whole
    return found


def _norm(name: str) -> str:
    for pattern, original in _NORMS:
        if match := pattern.match(name):
            return original.format(match[1], {"q": "query", "k": "key"}[match[2]])
    return name


def original_clip(weights: Mapping[str, Tensor]) -> Tensors:
    """CLIP as transformers 4 calls it."""
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in weights.items()}


def open_clip(weights: Mapping[str, Tensor]) -> Tensors:
    """CLIP as OpenCLIP has it, with queries, keys and values in one weight."""
    found: Tensors = {}
    heads: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        block = _BLOCK.match(name)
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif block is None:
            found[_TOP[name.removeprefix("text_model.")]] = tensor
        elif block[2] in _OPEN_CLIP:
            found[f"transformer.resblocks.{block[1]}.{_OPEN_CLIP[block[2]]}.{block[3]}"] = tensor
        else:
            fused = f"transformer.resblocks.{block[1]}.attn.in_proj_{block[3]}"
            heads.setdefault(fused, {})[block[2].removeprefix("self_attn.")[0]] = tensor
    return found | {name: torch.cat([parts[key] for key in "qkv"]) for name, parts in heads.items()}


def prefixed(prefix: str, weights: Mapping[str, Tensor]) -> Tensors:
    """With `prefix` before each name."""
    return {prefix + name: tensor.contiguous() for name, tensor in weights.items()}
