"""Models whose layers have other names in diffusers than in the original implementation, and what each is called.

Rules were read off the modules of both implementations; where a layer of one is several of the other, its rows are
theirs one after the other. Models with the same names in both need no rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from adaptzip.checkpoints._image.rules import Family, Rule


def _one(original: str, diffusers: str, *, swapped: bool = False, ratio: Fraction | None = None) -> Rule:
    return Rule(original, (diffusers,), halves_swapped=swapped, ratio=ratio)


def _qkv(original: str, names: Sequence[str], shares: tuple[int, ...] = (1, 1, 1)) -> Rule:
    return Rule(original, tuple(names), shares, ratio=Fraction(sum(shares), shares[0]))


def _same(paths: Sequence[str]) -> tuple[Rule, ...]:
    return tuple(_one(path, path) for path in paths)


_IMAGE, _TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
_BLOCK, _SINGLE = "transformer_blocks.#", "single_transformer_blocks.#"


def _mlp(original: str, ends: tuple[str, str], diffusers: str, growth: int | None = None) -> tuple[Rule, Rule]:
    there, back = (None, None) if growth is None else (Fraction(growth), Fraction(1, growth))
    return (
        _one(f"{original}.{ends[0]}", f"{diffusers}.net.0.proj", ratio=there),
        _one(f"{original}.{ends[1]}", f"{diffusers}.net.2", ratio=back),
    )


def _embedder(original: str, diffusers: str) -> tuple[Rule, Rule]:
    return _one(f"{original}.in_layer", f"{diffusers}.linear_1"), _one(f"{original}.out_layer", f"{diffusers}.linear_2")


def _joint(image: str, text: str) -> tuple[Rule, ...]:
    """The attention of two streams."""
    return (
        _qkv(f"{image}qkv", [f"{_BLOCK}.attn.{name}" for name in _IMAGE]),
        _qkv(f"{text}qkv", [f"{_BLOCK}.attn.{name}" for name in _TEXT]),
        _one(f"{image}proj", f"{_BLOCK}.attn.to_out.0"),
        _one(f"{text}proj", f"{_BLOCK}.attn.to_add_out"),
    )


_FUSED = (
    Rule(
        "single_blocks.#.linear1",
        (*(f"{_SINGLE}.attn.{name}" for name in _IMAGE), f"{_SINGLE}.proj_mlp"),
        (1, 1, 1, 4),
        ratio=Fraction(7),
    ),
    _one("single_blocks.#.linear2", f"{_SINGLE}.proj_out", ratio=Fraction(1, 5)),
)
"""A block of one stream, whose attention and feed-forward layer lie beside each other."""

_FLUX = Family(
    "Flux",
    (
        *_joint("double_blocks.#.img_attn.", "double_blocks.#.txt_attn."),
        *_mlp("double_blocks.#.img_mlp", ("0", "2"), f"{_BLOCK}.ff", 4),
        *_mlp("double_blocks.#.txt_mlp", ("0", "2"), f"{_BLOCK}.ff_context", 4),
        _one("double_blocks.#.img_mod.lin", f"{_BLOCK}.norm1.linear"),
        _one("double_blocks.#.txt_mod.lin", f"{_BLOCK}.norm1_context.linear"),
        *_FUSED,
        _one("single_blocks.#.modulation.lin", f"{_SINGLE}.norm.linear"),
        _one("img_in", "x_embedder"),
        _one("txt_in", "context_embedder"),
        *_embedder("time_in", "time_text_embed.timestep_embedder"),
        *_embedder("vector_in", "time_text_embed.text_embedder"),
        *_embedder("guidance_in", "time_text_embed.guidance_embedder"),
        _one("final_layer.linear", "proj_out"),
        _one("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True),
    ),
    frozenset({3072}),
    {"double_blocks": 19, "transformer_blocks": 19, "single_blocks": 38, "single_transformer_blocks": 38},
)

_SD3 = Family(
    "Stable Diffusion 3",
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
    frozenset({1536, 2432}),
    {"joint_blocks": 38, "transformer_blocks": 38},
)

_WAN = Family(
    "Wan",
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
)

_Z_IMAGE = Family(
    "Z-Image",
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
)

_FLUX_2 = Family(
    "Flux 2",
    (
        *_joint("double_blocks.#.img_attn.", "double_blocks.#.txt_attn."),
        *(
            _one(f"double_blocks.#.{ours}.{end}", f"{_BLOCK}.{theirs}.{name}", ratio=ratio)
            for ours, theirs in (("img_mlp", "ff"), ("txt_mlp", "ff_context"))
            for end, name, ratio in (("0", "linear_in", Fraction(6)), ("2", "linear_out", Fraction(1, 3)))
        ),
        _one("single_blocks.#.linear1", f"{_SINGLE}.attn.to_qkv_mlp_proj", ratio=Fraction(9)),
        _one("single_blocks.#.linear2", f"{_SINGLE}.attn.to_out", ratio=Fraction(1, 4)),
        _one("img_in", "x_embedder"),
        _one("txt_in", "context_embedder"),
        *_embedder("time_in", "time_guidance_embed.timestep_embedder"),
        *_embedder("guidance_in", "time_guidance_embed.guidance_embedder"),
        *(
            _one(f"{name}.lin", f"{name}.linear")
            for name in ("single_stream_modulation", "double_stream_modulation_img", "double_stream_modulation_txt")
        ),
        _one("final_layer.linear", "proj_out"),
        _one("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True),
    ),
    frozenset({3072, 4096, 6144}),
    {"double_blocks": 8, "transformer_blocks": 8, "single_blocks": 48, "single_transformer_blocks": 48},
)

_REFINER = "txt_in.individual_token_refiner.blocks.#"
_REFINED = "context_embedder.token_refiner.refiner_blocks.#"
_HUNYUAN = Family(
    "HunyuanVideo",
    (
        *_joint("double_blocks.#.img_attn_", "double_blocks.#.txt_attn_"),
        *_mlp("double_blocks.#.img_mlp", ("fc1", "fc2"), f"{_BLOCK}.ff"),
        *_mlp("double_blocks.#.txt_mlp", ("fc1", "fc2"), f"{_BLOCK}.ff_context"),
        _one("double_blocks.#.img_mod.linear", f"{_BLOCK}.norm1.linear"),
        _one("double_blocks.#.txt_mod.linear", f"{_BLOCK}.norm1_context.linear"),
        *_FUSED,
        _one("single_blocks.#.modulation.linear", f"{_SINGLE}.norm.linear"),
        _qkv(f"{_REFINER}.self_attn_qkv", [f"{_REFINED}.attn.{name}" for name in _IMAGE]),
        _one(f"{_REFINER}.self_attn_proj", f"{_REFINED}.attn.to_out.0"),
        *_mlp(f"{_REFINER}.mlp", ("fc1", "fc2"), f"{_REFINED}.ff"),
        _one(f"{_REFINER}.adaLN_modulation.1", f"{_REFINED}.norm_out.linear"),
        _one("txt_in.input_embedder", "context_embedder.proj_in"),
        _one("txt_in.t_embedder.mlp.0", "context_embedder.time_text_embed.timestep_embedder.linear_1"),
        _one("txt_in.t_embedder.mlp.2", "context_embedder.time_text_embed.timestep_embedder.linear_2"),
        _one("txt_in.c_embedder.linear_1", "context_embedder.time_text_embed.text_embedder.linear_1"),
        _one("txt_in.c_embedder.linear_2", "context_embedder.time_text_embed.text_embedder.linear_2"),
        _one("img_in.proj", "x_embedder.proj"),
        *(
            _one(f"{ours}.mlp.{end}", f"time_text_embed.{theirs}.{name}")
            for ours, theirs in (("time_in", "timestep_embedder"), ("guidance_in", "guidance_embedder"))
            for end, name in (("0", "linear_1"), ("2", "linear_2"))
        ),
        *_embedder("vector_in", "time_text_embed.text_embedder"),
        _one("final_layer.linear", "proj_out"),
        _one("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True),
    ),
    frozenset({3072}),
    {"double_blocks": 20, "transformer_blocks": 20, "single_blocks": 40, "single_transformer_blocks": 40},
)

_LUMINA = Family(
    "Lumina 2",
    tuple(
        rule
        for block in ("layers.#", "noise_refiner.#", "context_refiner.#")
        for rule in (
            _qkv(f"{block}.attention.qkv", [f"{block}.attn.{name}" for name in _IMAGE], (3, 1, 1)),
            _one(f"{block}.attention.out", f"{block}.attn.to_out.0"),
            *(_one(f"{block}.feed_forward.w{n}", f"{block}.feed_forward.linear_{n}") for n in (1, 2, 3)),
            _one(f"{block}.adaLN_modulation.1", f"{block}.norm1.linear"),
        )
    ),
    frozenset({2304}),
)

_GATED = (("wq", "to_q"), ("wk", "to_k"), ("wv", "to_v"), ("wo", "to_out.0"), ("gate", "to_gate"))
_KREA = Family(
    "Krea 2",
    (
        *(
            _one(f"{block}.{ours}", f"{theirs}.{name}")
            for block, theirs in (
                ("blocks.#", _BLOCK),
                ("txtfusion.layerwise_blocks.#", "text_fusion.layerwise_blocks.#"),
                ("txtfusion.refiner_blocks.#", "text_fusion.refiner_blocks.#"),
            )
            for ours, name in (
                *((f"attn.{ours}", f"attn.{name}") for ours, name in _GATED),
                *((f"mlp.{name}", f"ff.{name}") for name in ("gate", "up", "down")),
            )
        ),
        _one("first", "img_in"),
        _one("last.linear", "final_layer.linear"),
        _one("tmlp.0", "time_embed.linear_1"),
        _one("tmlp.2", "time_embed.linear_2"),
        _one("tproj.1", "time_mod_proj"),
        _one("txtmlp.1", "txt_in.linear_1"),
        _one("txtmlp.3", "txt_in.linear_2"),
        _one("txtfusion.projector", "text_fusion.projector"),
    ),
    frozenset({6144}),
)

_ANIMA = Family(
    "Anima",
    (
        *(
            _one(f"blocks.#.{attention}.{ours}", f"{_BLOCK}.{theirs}.{name}")
            for attention, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for ours, name in zip(("q_proj", "k_proj", "v_proj", "output_proj"), (*_IMAGE, "to_out.0"), strict=True)
        ),
        *_mlp("blocks.#.mlp", ("layer1", "layer2"), f"{_BLOCK}.ff"),
        *(
            _one(f"{ours}.{n}", f"{theirs}.linear_{n}")
            for ours, theirs in (
                ("blocks.#.adaln_modulation_self_attn", f"{_BLOCK}.norm1"),
                ("blocks.#.adaln_modulation_cross_attn", f"{_BLOCK}.norm2"),
                ("blocks.#.adaln_modulation_mlp", f"{_BLOCK}.norm3"),
                ("final_layer.adaln_modulation", "norm_out"),
            )
            for n in (1, 2)
        ),
        _one("final_layer.linear", "proj_out"),
        _one("t_embedder.1.linear_1", "time_embed.t_embedder.linear_1"),
        _one("t_embedder.1.linear_2", "time_embed.t_embedder.linear_2"),
        _one("x_embedder.proj.1", "patch_embed.proj"),
    ),
    frozenset({2048}),
)

_QWEN = Family(
    "Qwen-Image",
    _same(
        [
            *(f"{_BLOCK}.attn.{name}" for name in (*_IMAGE, *_TEXT, "to_out.0", "to_add_out")),
            *(f"{_BLOCK}.{side}_mlp.net.{end}" for side in ("img", "txt") for end in ("0.proj", "2")),
            *(f"{_BLOCK}.{side}_mod.1" for side in ("img", "txt")),
            *("img_in", "txt_in", "proj_out", "norm_out.linear"),
            *(f"time_text_embed.timestep_embedder.linear_{n}" for n in (1, 2)),
        ]
    ),
    frozenset({3072}),
    {"transformer_blocks": 60},
)

FAMILIES = (_FLUX, _SD3, _WAN, _Z_IMAGE, _FLUX_2, _HUNYUAN, _LUMINA, _KREA, _ANIMA, _QWEN)
PREFERRED = {_HUNYUAN.title: _FLUX.title}
"""Models of the same size and, in diffusers, the same names, of which the second is meant if nothing tells that it is
the first: HunyuanVideo has a block more of each kind, and refines its texts."""
SAME = re.compile(r"^(double|single)_stream_blocks\.\d+\.block\.")
"""Paths of HiDream, whose names are the same in both."""
