"""What files call a model's modules that transformers has another name for in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

STORED_SPELLINGS = (
    ((".mlp.", ".block_sparse_moe."),),
    (
        (".layers.", ".encoder.layer."),
        (".attention.q_proj", ".attention.attention.query"),
        (".attention.k_proj", ".attention.attention.key"),
        (".attention.v_proj", ".attention.attention.value"),
        (".attention.o_proj", ".attention.output.dense"),
        (".mlp.fc1", ".intermediate.dense"),
        (".mlp.fc2", ".output.dense"),
    ),
    (
        (".attention.q_proj", ".attention.self.query"),
        (".attention.k_proj", ".attention.self.key"),
        (".attention.v_proj", ".attention.self.value"),
        (".attention.o_proj", ".attention.output.dense"),
        (".mlp.fc1", ".intermediate.dense"),
        (".mlp.fc2", ".output.dense"),
    ),
    ((".o_proj", ".out_proj"), (".mlp.fc1", ".fc1"), (".mlp.fc2", ".fc2")),
    ((".mlp.router", ".block_sparse_moe.gate"), (".mlp.", ".block_sparse_moe.")),
    ((".block_sparse_moe.router", ".block_sparse_moe.router.layer"),),
    (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
    (
        ("stages.#.patch_embeddings.", "encoder.patch_embeddings.#."),
        ("stages.#.blocks.", "encoder.block.#."),
        ("stages.#.layer_norm", "encoder.layer_norm.#"),
        (".attention.q_proj", ".attention.self.query"),
        (".attention.k_proj", ".attention.self.key"),
        (".attention.v_proj", ".attention.self.value"),
        (".attention.sequence_reduction.sequence_reduction", ".attention.self.sr"),
        (".attention.sequence_reduction.layer_norm", ".attention.self.layer_norm"),
        (".attention.o_proj", ".attention.output.dense"),
        (".mlp.fc1", ".mlp.dense1"),
        (".mlp.fc2", ".mlp.dense2"),
        (".layernorm_before", ".layer_norm_1"),
        (".layernorm_after", ".layer_norm_2"),
        ("decode_head.linear_projections.", "decode_head.linear_c."),
    ),
    (
        ("encoder.aifi.#.layers.", "encoder.encoder.#.layers."),
        (".o_proj", ".out_proj"),
        (".mlp.fc1", ".fc1"),
        (".mlp.fc2", ".fc2"),
    ),
    (("lm_head", "embed_out"),),
)
"""(in memory, on disk) by family: Mixtral, ViT, Swin, DETR, PhiMoE, GraniteMoe, checkpoints of TensorFlow's time,
Segformer, RT-DETR, GPT-NeoX's head. A # is any number.

What transformers 5 has in memory, and transformers 4 had, so that adapters of both have either of them.
"""


def spellings(name: str, *, in_memory: bool = False) -> Iterator[str]:
    """A name, and what files may call it, or models that are `in_memory`.

    Files may have the names of memory too, where an adapter has those that files had.
    """
    yield name
    for turned in (True,) if in_memory else (False, True):
        for family in STORED_SPELLINGS:
            spelling = name
            for memory, disk in family:
                spelling = _replaced(spelling, disk, memory) if turned else _replaced(spelling, memory, disk)
            if spelling != name:
                yield spelling


def _replaced(name: str, old: str, new: str) -> str:
    """A name with every `old` in it replaced; a # in both is the same number."""
    if "#" not in old:
        return name.replace(old, new)
    return re.sub(re.escape(old).replace(r"\#", r"(\d+)"), new.replace("#", r"\1"), name)
