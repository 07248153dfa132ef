"""Models whose layers have other names in diffusers than in the original implementation, and what each is called.

Rules were read off the modules of both implementations; where a layer of one is several of the other, its rows are
theirs one after the other. Models with the same names in both need no rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from adaptzip.core.adapter import LoraFactors


@dataclass(frozen=True)
class Rule:
    """One layer: its original name, and diffusers' names of the layers that it is.

    Attributes:
        original: the path, with # for a number.
        diffusers: the paths in the order of the rows, with # for the same number.
        shares: how many shares of the rows each of these has.
        halves_swapped: whether the two halves of the rows change places.
    """

    original: str
    diffusers: tuple[str, ...]
    shares: tuple[int, ...] = (1,)
    halves_swapped: bool = False


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        title: its name, for messages.
        component: diffusers' component.
        rules: its layers.
        fits: tells from original paths, and from diffusers' paths, whether a file is of this family.
    """

    title: str
    component: str
    rules: tuple[Rule, ...]
    original: Callable[[Collection[str]], bool]
    diffusers: Callable[[Collection[str]], bool]


def _has(pattern: str) -> Callable[[Collection[str]], bool]:
    compiled = re.compile(pattern)
    return lambda paths: any(compiled.search(path) for path in paths)


def _one(original: str, diffusers: str, *, swapped: bool = False) -> Rule:
    return Rule(original, (diffusers,), halves_swapped=swapped)


def _qkv(original: str, names: Sequence[str]) -> Rule:
    return Rule(original, tuple(names), (1, 1, 1))


_IMAGE, _TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
_BLOCK, _SINGLE = "transformer_blocks.#", "single_transformer_blocks.#"


def _mlp(original: str, ends: tuple[str, str], diffusers: str) -> tuple[Rule, Rule]:
    return _one(f"{original}.{ends[0]}", f"{diffusers}.net.0.proj"), _one(f"{original}.{ends[1]}", f"{diffusers}.net.2")


def _embedder(original: str, diffusers: str) -> tuple[Rule, Rule]:
    return _one(f"{original}.in_layer", f"{diffusers}.linear_1"), _one(f"{original}.out_layer", f"{diffusers}.linear_2")


_FLUX = Family(
    "Flux",
    "transformer",
    (
        _qkv("double_blocks.#.img_attn.qkv", [f"{_BLOCK}.attn.{name}" for name in _IMAGE]),
        _qkv("double_blocks.#.txt_attn.qkv", [f"{_BLOCK}.attn.{name}" for name in _TEXT]),
        _one("double_blocks.#.img_attn.proj", f"{_BLOCK}.attn.to_out.0"),
        _one("double_blocks.#.txt_attn.proj", f"{_BLOCK}.attn.to_add_out"),
        *_mlp("double_blocks.#.img_mlp", ("0", "2"), f"{_BLOCK}.ff"),
        *_mlp("double_blocks.#.txt_mlp", ("0", "2"), f"{_BLOCK}.ff_context"),
        _one("double_blocks.#.img_mod.lin", f"{_BLOCK}.norm1.linear"),
        _one("double_blocks.#.txt_mod.lin", f"{_BLOCK}.norm1_context.linear"),
        Rule(
            "single_blocks.#.linear1",
            (*(f"{_SINGLE}.attn.{name}" for name in _IMAGE), f"{_SINGLE}.proj_mlp"),
            (1, 1, 1, 4),
        ),
        _one("single_blocks.#.linear2", f"{_SINGLE}.proj_out"),
        _one("single_blocks.#.modulation.lin", f"{_SINGLE}.norm.linear"),
        _one("img_in", "x_embedder"),
        _one("txt_in", "context_embedder"),
        *_embedder("time_in", "time_text_embed.timestep_embedder"),
        *_embedder("vector_in", "time_text_embed.text_embedder"),
        *_embedder("guidance_in", "time_text_embed.guidance_embedder"),
        _one("final_layer.linear", "proj_out"),
        _one("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True),
    ),
    _has(r"^double_blocks\.\d+\.(img|txt)_(attn\.|mlp\.[02]$|mod\.lin$)|^single_blocks\.\d+\.modulation\.lin$"),
    _has(r"^single_transformer_blocks\.\d+\.(attn\.|proj_|norm\.)"),
)

_SD3 = Family(
    "Stable Diffusion 3",
    "transformer",
    (
        _qkv("joint_blocks.#.x_block.attn.qkv", [f"{_BLOCK}.attn.{name}" for name in _IMAGE]),
        _qkv("joint_blocks.#.x_block.attn2.qkv", [f"{_BLOCK}.attn2.{name}" for name in _IMAGE]),
        _qkv("joint_blocks.#.context_block.attn.qkv", [f"{_BLOCK}.attn.{name}" for name in _TEXT]),
        _one("joint_blocks.#.x_block.attn.proj", f"{_BLOCK}.attn.to_out.0"),
        _one("joint_blocks.#.x_block.attn2.proj", f"{_BLOCK}.attn2.to_out.0"),
        _one("joint_blocks.#.context_block.attn.proj", f"{_BLOCK}.attn.to_add_out"),
        *_mlp("joint_blocks.#.x_block.mlp", ("fc1", "fc2"), f"{_BLOCK}.ff"),
        *_mlp("joint_blocks.#.context_block.mlp", ("fc1", "fc2"), f"{_BLOCK}.ff_context"),
        _one("joint_blocks.#.x_block.adaLN_modulation.1", f"{_BLOCK}.norm1.linear"),
        _one("context_embedder", "context_embedder"),
        _one("x_embedder.proj", "pos_embed.proj"),
        _one("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
        _one("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
        _one("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
        _one("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
        _one("final_layer.linear", "proj_out"),
        _one("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True),
    ),
    _has(r"^joint_blocks\.\d+\.(x|context)_block\."),
    _has(r"^pos_embed\.proj$|^transformer_blocks\.\d+\.attn2\.to_[qkv]$"),
)

_WAN = Family(
    "Wan",
    "transformer",
    (
        *(
            _one(f"blocks.#.{attention}.{ours}", f"blocks.#.{theirs}.{name}")
            for attention, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for ours, name in zip("qkvo", (*_IMAGE, "to_out.0"), strict=True)
        ),
        _one("blocks.#.cross_attn.k_img", "blocks.#.attn2.add_k_proj"),
        _one("blocks.#.cross_attn.v_img", "blocks.#.attn2.add_v_proj"),
        *_mlp("blocks.#.ffn", ("0", "2"), "blocks.#.ffn"),
        _one("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        _one("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        _one("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        _one("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        _one("time_projection.1", "condition_embedder.time_proj"),
        _one("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
        _one("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
        _one("patch_embedding", "patch_embedding"),
        _one("head.head", "proj_out"),
    ),
    _has(r"^blocks\.\d+\.(self|cross)_attn\.([qkvo]|[kv]_img)$"),
    _has(r"^blocks\.\d+\.attn[12]\.to_"),
)

_Z_IMAGE = Family(
    "Z-Image",
    "transformer",
    tuple(
        rule
        for block in ("layers.#", "noise_refiner.#", "context_refiner.#")
        for rule in (
            _qkv(f"{block}.attention.qkv", [f"{block}.attention.{name}" for name in _IMAGE]),
            _one(f"{block}.attention.out", f"{block}.attention.to_out.0"),
            *(_one(f"{block}.feed_forward.{w}", f"{block}.feed_forward.{w}") for w in ("w1", "w2", "w3")),
            _one(f"{block}.adaLN_modulation.0", f"{block}.adaLN_modulation.0"),
        )
    ),
    _has(r"^layers\.\d+\.attention\.(qkv|out)$"),
    _has(r"^layers\.\d+\.attention\.to_"),
)

FAMILIES = (_FLUX, _SD3, _WAN, _Z_IMAGE)

SAME = re.compile(r"^transformer_blocks\.\d+\.(img_mlp|txt_mlp|img_mod|txt_mod)\.")
"""Paths of Qwen-Image, whose names are the same in both."""
SHARED = re.compile(r"^transformer_blocks\.\d+\.attn\.")
"""Paths that Flux, Stable Diffusion 3 and Qwen-Image have in diffusers' names, and not in the original's."""
_JOINT = re.compile(r"^transformer_blocks\.\d+\.(ff|ff_context|norm1|norm1_context)\.")
"""Paths that Flux and Stable Diffusion 3 have in common, and Qwen-Image has not."""
_WIDTHS = {3072: _FLUX, 1536: _SD3, 2432: _SD3}


def by_width(modules: Mapping[str, LoraFactors]) -> Family | None:
    """Flux or Stable Diffusion 3, in diffusers' names, by the width of layers that both have; None for neither."""
    both = {path: factors for path, factors in modules.items() if _JOINT.match(path) and not path.endswith("net.2")}
    widths = {factors.shape[1] for factors in both.values()}
    return _WIDTHS.get(next(iter(widths))) if len(widths) == 1 else None
