"""Models of two streams, of an image and of a text, whose names in diffusers are much the same: Flux and its kin."""

from __future__ import annotations

from fractions import Fraction

from adaptzip.checkpoints._image.layers import BLOCK, IMAGE, SINGLE, TEXT, embedder, mlp, one, qkv, same
from adaptzip.checkpoints._image.rules import Family, Rule


def _joint(image: str, text: str) -> tuple[Rule, ...]:
    """The attention of two streams."""
    return (
        qkv(f"{image}qkv", [f"{BLOCK}.attn.{name}" for name in IMAGE]),
        qkv(f"{text}qkv", [f"{BLOCK}.attn.{name}" for name in TEXT]),
        one(f"{image}proj", f"{BLOCK}.attn.to_out.0"),
        one(f"{text}proj", f"{BLOCK}.attn.to_add_out"),
    )


_LAST = one("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True, ratio=Fraction(2))
"""Scale and shift before the last layer, which diffusers has the other way round."""
_FUSED = (
    Rule(
        "single_blocks.#.linear1",
        (*(f"{SINGLE}.attn.{name}" for name in IMAGE), f"{SINGLE}.proj_mlp"),
        (1, 1, 1, 4),
        ratio=Fraction(7),
    ),
    one("single_blocks.#.linear2", f"{SINGLE}.proj_out", ratio=Fraction(1, 5)),
)
"""A block of one stream, whose attention and feed-forward layer lie beside each other."""

FLUX = Family(
    "Flux",
    (
        *_joint("double_blocks.#.img_attn.", "double_blocks.#.txt_attn."),
        *mlp("double_blocks.#.img_mlp", ("0", "2"), f"{BLOCK}.ff", 4),
        *mlp("double_blocks.#.txt_mlp", ("0", "2"), f"{BLOCK}.ff_context", 4),
        one("double_blocks.#.img_mod.lin", f"{BLOCK}.norm1.linear"),
        one("double_blocks.#.txt_mod.lin", f"{BLOCK}.norm1_context.linear"),
        *_FUSED,
        one("single_blocks.#.modulation.lin", f"{SINGLE}.norm.linear"),
        one("img_in", "x_embedder"),
        one("txt_in", "context_embedder"),
        *embedder("time_in", "time_text_embed.timestep_embedder"),
        *embedder("vector_in", "time_text_embed.text_embedder"),
        *embedder("guidance_in", "time_text_embed.guidance_embedder"),
        one("final_layer.linear", "proj_out"),
        _LAST,
    ),
    frozenset({3072}),
    {"double_blocks": 19, "transformer_blocks": 19, "single_blocks": 38, "single_transformer_blocks": 38},
)

SD3 = Family(
    "Stable Diffusion 3",
    (
        qkv("joint_blocks.#.x_block.attn.qkv", [f"{BLOCK}.attn.{name}" for name in IMAGE]),
        qkv("joint_blocks.#.x_block.attn2.qkv", [f"{BLOCK}.attn2.{name}" for name in IMAGE]),
        qkv("joint_blocks.#.context_block.attn.qkv", [f"{BLOCK}.attn.{name}" for name in TEXT]),
        one("joint_blocks.#.x_block.attn.proj", f"{BLOCK}.attn.to_out.0"),
        one("joint_blocks.#.x_block.attn2.proj", f"{BLOCK}.attn2.to_out.0"),
        one("joint_blocks.#.context_block.attn.proj", f"{BLOCK}.attn.to_add_out"),
        *mlp("joint_blocks.#.x_block.mlp", ("fc1", "fc2"), f"{BLOCK}.ff"),
        *mlp("joint_blocks.#.context_block.mlp", ("fc1", "fc2"), f"{BLOCK}.ff_context"),
        one("joint_blocks.#.x_block.adaLN_modulation.1", f"{BLOCK}.norm1.linear"),
        # The last block has scale and shift alone for its text, and diffusers has them the other way round there.
        one("joint_blocks.#.context_block.adaLN_modulation.1", f"{BLOCK}.norm1_context.linear", swapped=Fraction(2)),
        one("context_embedder", "context_embedder"),
        one("x_embedder.proj", "pos_embed.proj"),
        one("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
        one("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
        one("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
        one("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
        one("final_layer.linear", "proj_out"),
        _LAST,
    ),
    frozenset({1536, 2432}),
    {"joint_blocks": 38, "transformer_blocks": 38},
)

FLUX_2 = Family(
    "Flux 2",
    (
        *_joint("double_blocks.#.img_attn.", "double_blocks.#.txt_attn."),
        *(
            one(f"double_blocks.#.{ours}.{end}", f"{BLOCK}.{theirs}.{name}", ratio=ratio)
            for ours, theirs in (("img_mlp", "ff"), ("txt_mlp", "ff_context"))
            for end, name, ratio in (("0", "linear_in", Fraction(6)), ("2", "linear_out", Fraction(1, 3)))
        ),
        one("single_blocks.#.linear1", f"{SINGLE}.attn.to_qkv_mlp_proj", ratio=Fraction(9)),
        one("single_blocks.#.linear2", f"{SINGLE}.attn.to_out", ratio=Fraction(1, 4)),
        one("img_in", "x_embedder"),
        one("txt_in", "context_embedder"),
        *embedder("time_in", "time_guidance_embed.timestep_embedder"),
        *embedder("guidance_in", "time_guidance_embed.guidance_embedder"),
        *(
            one(f"{name}.lin", f"{name}.linear")
            for name in ("single_stream_modulation", "double_stream_modulation_img", "double_stream_modulation_txt")
        ),
        one("final_layer.linear", "proj_out"),
        _LAST,
    ),
    frozenset({3072, 4096, 6144}),
    {"double_blocks": 8, "transformer_blocks": 8, "single_blocks": 48, "single_transformer_blocks": 48},
)

_REFINER = "txt_in.individual_token_refiner.blocks.#"
_REFINED = "context_embedder.token_refiner.refiner_blocks.#"
HUNYUAN = Family(
    "HunyuanVideo",
    (
        *_joint("double_blocks.#.img_attn_", "double_blocks.#.txt_attn_"),
        *mlp("double_blocks.#.img_mlp", ("fc1", "fc2"), f"{BLOCK}.ff"),
        *mlp("double_blocks.#.txt_mlp", ("fc1", "fc2"), f"{BLOCK}.ff_context"),
        one("double_blocks.#.img_mod.linear", f"{BLOCK}.norm1.linear"),
        one("double_blocks.#.txt_mod.linear", f"{BLOCK}.norm1_context.linear"),
        *_FUSED,
        one("single_blocks.#.modulation.linear", f"{SINGLE}.norm.linear"),
        qkv(f"{_REFINER}.self_attn_qkv", [f"{_REFINED}.attn.{name}" for name in IMAGE]),
        one(f"{_REFINER}.self_attn_proj", f"{_REFINED}.attn.to_out.0"),
        *mlp(f"{_REFINER}.mlp", ("fc1", "fc2"), f"{_REFINED}.ff"),
        one(f"{_REFINER}.adaLN_modulation.1", f"{_REFINED}.norm_out.linear"),
        one("txt_in.input_embedder", "context_embedder.proj_in"),
        one("txt_in.t_embedder.mlp.0", "context_embedder.time_text_embed.timestep_embedder.linear_1"),
        one("txt_in.t_embedder.mlp.2", "context_embedder.time_text_embed.timestep_embedder.linear_2"),
        one("txt_in.c_embedder.linear_1", "context_embedder.time_text_embed.text_embedder.linear_1"),
        one("txt_in.c_embedder.linear_2", "context_embedder.time_text_embed.text_embedder.linear_2"),
        one("img_in.proj", "x_embedder.proj"),
        *(
            one(f"{ours}.mlp.{end}", f"time_text_embed.{theirs}.{name}")
            for ours, theirs in (("time_in", "timestep_embedder"), ("guidance_in", "guidance_embedder"))
            for end, name in (("0", "linear_1"), ("2", "linear_2"))
        ),
        *embedder("vector_in", "time_text_embed.text_embedder"),
        one("final_layer.linear", "proj_out"),
        _LAST,
    ),
    frozenset({3072}),
    {"double_blocks": 20, "transformer_blocks": 20, "single_blocks": 40, "single_transformer_blocks": 40},
)

QWEN = Family(
    "Qwen-Image",
    same(
        [
            *(f"{BLOCK}.attn.{name}" for name in (*IMAGE, *TEXT, "to_out.0", "to_add_out")),
            *(f"{BLOCK}.{side}_mlp.net.{end}" for side in ("img", "txt") for end in ("0.proj", "2")),
            *(f"{BLOCK}.{side}_mod.1" for side in ("img", "txt")),
            *("img_in", "txt_in", "proj_out", "norm_out.linear"),
            *(f"time_text_embed.timestep_embedder.linear_{n}" for n in (1, 2)),
        ]
    ),
    frozenset({3072}),
    {"transformer_blocks": 60},
)
