"""Adapters on tiny models, and what the live PEFT model and the merged folder compute."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from tests.cases.tiny_peft import randomise

SIZES = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
SEQ2SEQ = {"vocab_size": 32, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
SIDES = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 24))}
ATTENTION = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}


def llama(**more: Any) -> tf.PreTrainedModel:
    sizes = {"vocab_size": 32, "num_key_value_heads": 1, "tie_word_embeddings": True, "initializer_range": 0.2}
    return tf.LlamaForCausalLM(tf.LlamaConfig(**{**SIZES, **sizes, **more}))


def t5(name: str = "T5", **more: Any) -> tf.PreTrainedModel:
    """T5 or one of its kin; the width's root is no power of two, so that a scale is not exact."""
    config = getattr(tf, f"{name}Config")(**{"d_model": 18, **SEQ2SEQ, **more})
    return getattr(tf, f"{name}ForConditionalGeneration")(config)


def bart() -> tf.PreTrainedModel:
    config = tf.BartConfig(vocab_size=32, d_model=16, init_std=0.2, **SIDES, **ATTENTION)
    return tf.BartForConditionalGeneration(config)


def bert() -> tf.PreTrainedModel:
    return tf.BertForMaskedLM(tf.BertConfig(vocab_size=32, max_position_embeddings=16, **SIZES))


def qwen2_vl() -> tf.PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**SIZES, "vocab_size": 32, "num_key_value_heads": 2, "rope_parameters": rope, "tie_word_embeddings": True}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    tokens = {"image_token_id": 31, "video_token_id": 30, "vision_start_token_id": 29, "vision_end_token_id": 28}
    config = tf.Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
    return tf.Qwen2VLForConditionalGeneration(config)


def gemma3() -> tf.PreTrainedModel:
    text = {**SIZES, "vocab_size": 32, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    vision = {**SIZES, "image_size": 16, "patch_size": 8}
    tokens = {"image_token_index": 31, "boi_token_index": 30, "eoi_token_index": 29, "mm_tokens_per_image": 4}
    return tf.Gemma3ForConditionalGeneration(tf.Gemma3Config(text_config=text, vision_config=vision, **tokens))


@dataclass(frozen=True)
class Live:
    """A base model, an adapter that PEFT saved, and what both compute together.

    Attributes:
        base, adapter: the folders.
        logits: the live PEFT model's.
        merged: those of PEFT's own merge, in memory.
    """

    base: Path
    adapter: Path
    logits: Tensor
    merged: Tensor


def train(folder: Path, make: Callable[[], tf.PreTrainedModel], tokens: int | None = None, **config: Any) -> Live:
    """Save a base model and an adapter on it, which begins with `tokens` tokens if given."""
    tf.set_seed(0)
    model = make()
    base, adapter = folder / "base", folder / "adapter"
    model.save_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = get_peft_model(_resized(type(model).from_pretrained(base), tokens), LoraConfig(r=2, **config))
        randomise(trained)
        trained.save_pretrained(adapter)
        live = PeftModel.from_pretrained(_resized(type(model).from_pretrained(base), tokens), adapter)
        return Live(base, adapter, logits(live), logits(live.merge_and_unload()))


def logits(model: Any) -> Tensor:
    """What a model computes from eight tokens."""
    inputs = {"input_ids": torch.arange(1, 9)[None]}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.arange(1, 6)[None]
    with torch.no_grad():
        found: Tensor = model.eval()(**inputs).logits
    return found


def logits_of(folder: Path, model_class: str | None = None) -> Tensor:
    """What transformers computes with the model in a folder, every tensor of which it must find in the files."""
    name = model_class or tf.AutoConfig.from_pretrained(folder).architectures[0]
    model, info = getattr(tf, name).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    return logits(model)


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    return float((found - expected).norm() / expected.norm())


def _resized(model: Any, tokens: int | None) -> Any:
    if tokens is not None:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    return model
