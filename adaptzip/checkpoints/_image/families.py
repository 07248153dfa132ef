"""Models whose layers have other names in diffusers than in the original implementation, and what each is called.

Rules were read off the modules of both implementations; where a layer of one is several of the other, its rows are
theirs one after the other. Models with the same names in both need no rule.
"""

from __future__ import annotations

import re
from fractions import Fraction

from adaptzip.checkpoints._image.layers import BLOCK, IMAGE, mlp, one, qkv, same
from adaptzip.checkpoints._image.rules import Family
from adaptzip.checkpoints._image.streams import FLUX, FLUX_2, HUNYUAN, QWEN, SD3

_WAN = Family(
    "Wan",
    (
        *(
            one(f"blocks.#.{attention}.{ours}", f"blocks.#.{theirs}.{name}")
            for attention, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for ours, name in zip("qkvo", (*IMAGE, "to_out.0"), strict=True)
        ),
        one("blocks.#.cross_attn.k_img", "blocks.#.attn2.add_k_proj"),
        one("blocks.#.cross_attn.v_img", "blocks.#.attn2.add_v_proj"),
        *mlp("blocks.#.ffn", ("0", "2"), "blocks.#.ffn"),
        one("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        one("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        one("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        one("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        one("time_projection.1", "condition_embedder.time_proj"),
        one("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
        one("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
        one("patch_embedding", "patch_embedding"),
        one("head.head", "proj_out"),
    ),
    frozenset({1536, 3072, 5120}),
    {"blocks": 40},
)

_Z_IMAGE = Family(
    "Z-Image",
    (
        *(
            rule
            for block in ("layers.#", "noise_refiner.#", "context_refiner.#")
            for rule in (
                qkv(f"{block}.attention.qkv", [f"{block}.attention.{name}" for name in IMAGE]),
                one(f"{block}.attention.out", f"{block}.attention.to_out.0"),
                *(one(f"{block}.feed_forward.{w}", f"{block}.feed_forward.{w}") for w in ("w1", "w2", "w3")),
                one(f"{block}.adaLN_modulation.0", f"{block}.adaLN_modulation.0"),
            )
        ),
        one("x_embedder", "all_x_embedder.2-1"),
        one("final_layer.linear", "all_final_layer.2-1.linear"),
        one("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1", ratio=Fraction(15)),
        *same(["cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2"]),
    ),
    frozenset({3840}),
    {"layers": 30},
)

_LUMINA = Family(
    "Lumina 2",
    (
        *(
            rule
            for block in ("layers.#", "noise_refiner.#", "context_refiner.#")
            for rule in (
                qkv(f"{block}.attention.qkv", [f"{block}.attn.{name}" for name in IMAGE], (3, 1, 1)),
                one(f"{block}.attention.out", f"{block}.attn.to_out.0"),
                *(one(f"{block}.feed_forward.w{n}", f"{block}.feed_forward.linear_{n}") for n in (1, 2, 3)),
                one(f"{block}.adaLN_modulation.1", f"{block}.norm1.linear"),
            )
        ),
        one("x_embedder", "x_embedder"),
        one("cap_embedder.1", "time_caption_embed.caption_embedder.1"),
        one("t_embedder.mlp.0", "time_caption_embed.timestep_embedder.linear_1"),
        one("t_embedder.mlp.2", "time_caption_embed.timestep_embedder.linear_2"),
        one("final_layer.adaLN_modulation.1", "norm_out.linear_1", ratio=Fraction(9, 4)),
        one("final_layer.linear", "norm_out.linear_2"),
    ),
    frozenset({2304}),
    {"layers": 26},
)

_GATED = (("wq", "to_q"), ("wk", "to_k"), ("wv", "to_v"), ("wo", "to_out.0"), ("gate", "to_gate"))
_KREA = Family(
    "Krea 2",
    (
        *(
            one(f"{block}.{ours}", f"{theirs}.{name}")
            for block, theirs in (
                ("blocks.#", BLOCK),
                ("txtfusion.layerwise_blocks.#", "text_fusion.layerwise_blocks.#"),
                ("txtfusion.refiner_blocks.#", "text_fusion.refiner_blocks.#"),
            )
            for ours, name in (
                *((f"attn.{ours}", f"attn.{name}") for ours, name in _GATED),
                *((f"mlp.{name}", f"ff.{name}") for name in ("gate", "up", "down")),
            )
        ),
        one("first", "img_in"),
        one("last.linear", "final_layer.linear"),
        one("tmlp.0", "time_embed.linear_1"),
        one("tmlp.2", "time_embed.linear_2"),
        one("tproj.1", "time_mod_proj"),
        one("txtmlp.1", "txt_in.linear_1"),
        one("txtmlp.3", "txt_in.linear_2"),
        one("txtfusion.projector", "text_fusion.projector"),
    ),
    frozenset({6144}),
    {"blocks": 28, "transformer_blocks": 28},
)

_ANIMA = Family(
    "Anima",
    (
        *(
            one(f"blocks.#.{attention}.{ours}", f"{BLOCK}.{theirs}.{name}")
            for attention, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for ours, name in zip(("q_proj", "k_proj", "v_proj", "output_proj"), (*IMAGE, "to_out.0"), strict=True)
        ),
        *mlp("blocks.#.mlp", ("layer1", "layer2"), f"{BLOCK}.ff"),
        *(
            one(f"{ours}.{n}", f"{theirs}.linear_{n}")
            for ours, theirs in (
                ("blocks.#.adaln_modulation_self_attn", f"{BLOCK}.norm1"),
                ("blocks.#.adaln_modulation_cross_attn", f"{BLOCK}.norm2"),
                ("blocks.#.adaln_modulation_mlp", f"{BLOCK}.norm3"),
                ("final_layer.adaln_modulation", "norm_out"),
            )
            for n in (1, 2)
        ),
        one("final_layer.linear", "proj_out"),
        one("t_embedder.1.linear_1", "time_embed.t_embedder.linear_1"),
        one("t_embedder.1.linear_2", "time_embed.t_embedder.linear_2"),
        one("x_embedder.proj.1", "patch_embed.proj"),
    ),
    frozenset({2048, 5120}),
    {"blocks": 36, "transformer_blocks": 36},
)

_LTX = Family(
    "LTX-Video",
    (
        *same([f"{BLOCK}.attn1.{name}" for name in (*IMAGE, "to_out.0")]),
        *same([f"{BLOCK}.attn2.{name}" for name in ("to_q", "to_out.0")]),
        # Its texts are as wide as its blocks, unlike those of Anima, which has the same names in diffusers.
        *(one(f"{BLOCK}.attn2.{name}", f"{BLOCK}.attn2.{name}", ratio=Fraction(1)) for name in ("to_k", "to_v")),
        *same([f"{BLOCK}.ff.net.0.proj", f"{BLOCK}.ff.net.2", "proj_out"]),
        *same([f"caption_projection.linear_{n}" for n in (1, 2)]),
    ),
    frozenset({2048}),
    {"transformer_blocks": 28},
)

FAMILIES = (FLUX, SD3, _WAN, _Z_IMAGE, FLUX_2, HUNYUAN, _LUMINA, _KREA, _ANIMA, QWEN, _LTX)
PREFERRED = {HUNYUAN.title: FLUX.title}
"""Models of the same size and, in diffusers, the same names, of which the second is meant if nothing tells that it is
the first: HunyuanVideo has a block more of each kind, and refines its texts."""
SAME = re.compile(r"^(double|single)_stream_blocks\.\d+\.block\.")
"""Paths of HiDream, whose names are the same in both."""
