"""Models whose parts have other names in files than in memory, or had with transformers 4, and bases under each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers as tf
from torch import Tensor

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": 40, "num_key_value_heads": 2}
IMAGES = {**SIZES, "image_size": 16, "patch_size": 8}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
QWEN_TOKENS = {"image_token_id": 39, "video_token_id": 38, "vision_start_token_id": 37, "vision_end_token_id": 36}
PATCHES = {"depth": 1, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
CHOSEN = {"moe_intermediate_size": 6, "num_experts_per_tok": 2}


def llava() -> tf.PreTrainedModel:
    parts = {"vision_config": tf.CLIPVisionConfig(**IMAGES), "text_config": tf.LlamaConfig(**TEXT)}
    return tf.LlavaForConditionalGeneration(tf.LlavaConfig(image_token_index=39, **parts))


def paligemma() -> tf.PreTrainedModel:
    vision = tf.SiglipVisionConfig(projection_dim=16, **IMAGES)
    parts = {"vision_config": vision, "text_config": tf.GemmaConfig(head_dim=8, **TEXT)}
    return tf.PaliGemmaForConditionalGeneration(tf.PaliGemmaConfig(image_token_index=39, projection_dim=16, **parts))


def gemma3() -> tf.PreTrainedModel:
    parts = {"vision_config": IMAGES, "text_config": {**TEXT, "head_dim": 8, "pad_token_id": 0}}
    tokens = {"image_token_index": 39, "boi_token_index": 38, "eoi_token_index": 37, "mm_tokens_per_image": 4}
    return tf.Gemma3ForConditionalGeneration(tf.Gemma3Config(**parts, **tokens))


def qwen2_vl() -> tf.PreTrainedModel:
    vision = {**PATCHES, "embed_dim": 16, "hidden_size": 16, "mlp_ratio": 2}
    parts = {"vision_config": vision, "text_config": {**TEXT, "rope_parameters": ROPE}}
    return tf.Qwen2VLForConditionalGeneration(tf.Qwen2VLConfig(**parts, **QWEN_TOKENS))


def mixtral() -> tf.PreTrainedModel:
    return tf.MixtralForCausalLM(tf.MixtralConfig(num_local_experts=3, **TEXT))


def qwen3_moe() -> tf.PreTrainedModel:
    return tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(head_dim=8, num_experts=3, **CHOSEN, **TEXT))


def olmoe() -> tf.PreTrainedModel:
    return tf.OlmoeForCausalLM(tf.OlmoeConfig(num_experts=3, num_experts_per_tok=2, **TEXT))


def granite_moe() -> tf.PreTrainedModel:
    return tf.GraniteMoeForCausalLM(tf.GraniteMoeConfig(num_local_experts=3, **TEXT))


def deepseek() -> tf.PreTrainedModel:
    widths = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    groups = {"n_routed_experts": 3, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 0}
    return tf.DeepseekV3ForCausalLM(tf.DeepseekV3Config(**TEXT, **CHOSEN, **widths, **groups))


def llama4() -> tf.PreTrainedModel:
    sizes = {"head_dim": 8, "intermediate_size_mlp": 24, "num_local_experts": 3, "interleave_moe_layer_step": 1}
    return tf.Llama4ForCausalLM(tf.Llama4TextConfig(pad_token_id=0, **sizes, **TEXT))


def qwen3_vl_moe() -> tf.PreTrainedModel:
    text = {**TEXT, "head_dim": 8, "num_experts": 3, "rope_parameters": ROPE, **CHOSEN}
    sizes = {"out_hidden_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    vision = {**PATCHES, "hidden_size": 16, "intermediate_size": 24, **sizes}
    config = tf.Qwen3VLMoeConfig(text_config=text, vision_config=vision, **QWEN_TOKENS)
    return tf.Qwen3VLMoeForConditionalGeneration(config)


Prefixes = Mapping[str, str]
"""What stands before names in memory, and what stands there instead; the first that fits counts."""

LLAVA_4: Prefixes = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
"""Until transformers 4.51, and on the Hub."""
LLAVA_52: Prefixes = {"model.vision_tower.": "model.vision_tower.vision_model."}
"""From transformers 4.52 on."""
QWEN_4: Prefixes = {"model.language_model.": "model.", "model.visual.": "visual."}


@dataclass(frozen=True)
class Seeing:
    """A model of images and text.

    Attributes:
        make: makes it.
        earlier: the prefixes that it had.
    """

    make: Any
    earlier: tuple[Prefixes, ...] = (LLAVA_4, LLAVA_52)


SEEING = {
    "llava": Seeing(llava),
    "paligemma": Seeing(paligemma),
    "gemma3": Seeing(gemma3),
    "qwen2_vl": Seeing(qwen2_vl, (QWEN_4,)),
}


@dataclass(frozen=True)
class Mixture:
    """A model with experts.

    Attributes:
        make: makes it.
        place: where the experts of its only layer are, by the names of transformers 4.
        parts: what their projections are called where they are apart.
        width: rows of a gate projection.
        converted: whether PEFT stacks experts' own projections for it.
        turned: whether files of transformers 4 have the stacks as (experts, in, out).
    """

    make: Any
    place: str = "model.layers.0.mlp.experts"
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    width: int = 6
    converted: bool = True
    turned: bool = False


MIXTURES = {
    "mixtral": Mixture(mixtral, "model.layers.0.block_sparse_moe.experts", ("w1", "w3", "w2"), 24),
    "qwen3_moe": Mixture(qwen3_moe),
    "olmoe": Mixture(olmoe, width=24),
    "deepseek": Mixture(deepseek),
    "llama4": Mixture(llama4, "model.layers.0.feed_forward.experts", width=24, converted=False),
    "qwen3_vl_moe": Mixture(qwen3_vl_moe, "model.language_model.layers.0.mlp.experts", converted=False, turned=True),
}


def renamed(tensors: Mapping[str, Tensor], prefixes: Prefixes, before: str = "") -> dict[str, Tensor]:
    """Tensors under other prefixes, all of which stand behind `before`."""
    found = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix(before)
        old = next((old for old in prefixes if bare.startswith(old)), "")
        found[before + (prefixes[old] + bare.removeprefix(old) if old else bare)] = tensor
    return found
