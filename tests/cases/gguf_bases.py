"""Small base models of transformers as GGUF, as llama.cpp's convert_hf_to_gguf.py makes them, each with a vocabulary of
single characters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from tests.cases.oracle_models import VOCABULARY

_TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
_EXPERT = re.compile(r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(w[123]|\w+_proj)\.weight")
_STACKS = {
    **{"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"},
    **{f"{name}_proj": f"ffn_{name}_exps" for name in ("gate", "up", "down")},
}
_EPSILONS = ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")
_PERMUTED = ("llama", "olmo", "granite", "smollm3", "arcee")
_PLUS_ONE = ("gemma", "gemma2", "gemma3", "nemotron")


def write_base(folder: Path, path: Path, architecture: str = "llama", kind: str = "F32") -> Path:
    """A model that transformers saved.

    Args:
        folder: the model.
        path: the file to write.
        architecture: what llama.cpp calls it.
        kind: ggml's name of the type of its matrices; vectors are in float32.
    """
    of_matrices = gguf.GGMLQuantizationType[kind]
    config = json.loads((folder / "config.json").read_text())
    out = gguf.GGUFWriter(path, architecture)
    out.add_type("model")
    out.add_file_type(next(value for value in gguf.LlamaFileType if value.name.endswith(f"_{kind}")))
    _add_sizes(out, config)
    _add_vocabulary(out)
    for name, tensor in _tensors(folder, config, architecture).items():
        made = gguf.quantize(np.ascontiguousarray(tensor), of_matrices) if tensor.ndim > 1 else tensor
        out.add_tensor(name, made, raw_dtype=of_matrices if made.dtype == np.uint8 else None)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _add_sizes(out: Any, config: Mapping[str, Any]) -> None:
    heads, keys = _heads(config)
    width = config.get("hidden_size", config.get("n_embd"))
    out.add_context_length(64)
    out.add_embedding_length(width)
    out.add_block_count(_layers(config))
    out.add_feed_forward_length(config.get("intermediate_size", 4 * width))
    out.add_head_count(heads)
    out.add_head_count_kv(keys)
    out.add_vocab_size(VOCABULARY)
    if "rms_norm_eps" in config:
        out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    else:
        out.add_layer_norm_eps(next((config[name] for name in _EPSILONS if name in config), 1e-5))
    if "rope_parameters" in config:
        _add_rotary(out, config, config.get("head_dim") or width // heads)
    _add_specials(out, config)


def _add_rotary(out: Any, config: Mapping[str, Any], size: int) -> None:
    rotary = config["rope_parameters"]
    rotary = rotary.get("full_attention", rotary)
    out.add_rope_freq_base(rotary["rope_theta"])
    out.add_rope_dimension_count(int(size * rotary.get("partial_rotary_factor", 1)))
    out.add_key_length(size)
    out.add_value_length(size)


def _add_specials(out: Any, config: Mapping[str, Any]) -> None:
    kind = config["model_type"]
    if kind in ("phi3", "gemma2", "gemma3_text", "cohere2", "olmo3"):
        out.add_sliding_window(config["sliding_window"] or 0)
    if kind == "olmo3":
        out.add_sliding_window_pattern([layer == "sliding_attention" for layer in config["layer_types"]])
    if kind == "phi3":
        out.add_rope_scaling_orig_ctx_len(64)
    if kind == "gemma2":
        out.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        out.add_final_logit_softcapping(config["final_logit_softcapping"])
    if kind in ("cohere", "cohere2"):
        out.add_logit_scale(config["logit_scale"])
    if kind == "granite":
        out.add_attention_scale(config["attention_multiplier"])
        out.add_embedding_scale(config["embedding_multiplier"])
        out.add_residual_scale(config["residual_multiplier"])
        out.add_logit_scale(config["logits_scaling"])
    if kind == "stablelm":
        out.add_parallel_residual(config["use_parallel_residual"])
    experts = config.get("num_local_experts") or config.get("num_experts")
    if experts:
        out.add_expert_count(experts)
        out.add_expert_used_count(config["num_experts_per_tok"])
        out.add_expert_feed_forward_length(config.get("moe_intermediate_size", config["intermediate_size"]))
        if "shared_expert_intermediate_size" in config:
            out.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _add_vocabulary(out: Any) -> None:
    characters = VOCABULARY - 3
    out.add_tokenizer_model("llama")
    out.add_token_list(["<unk>", "<s>", "</s>", *(chr(0x4E00 + i) for i in range(characters))])
    out.add_token_scores([0.0] * VOCABULARY)
    out.add_token_types([2, 3, 3] + [1] * characters)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)


def _tensors(folder: Path, config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The tensors by llama.cpp's names, turned as it has them, with the experts of a layer in one."""
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, _layers(config))
    found: dict[str, Any] = {}
    stacks: dict[str, dict[int, Any]] = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        expert = _EXPERT.fullmatch(key)
        if expert is not None:
            stacks.setdefault(f"blk.{expert[1]}.{_STACKS[expert[3]]}.weight", {})[int(expert[2])] = tensor
        else:
            found[names.get_name(key, try_suffixes=(".weight", ".bias"))] = _turned(key, tensor, config, architecture)
    return found | {name: np.stack([stack[number] for number in sorted(stack)]) for name, stack in stacks.items()}


def _turned(key: str, tensor: Any, config: Mapping[str, Any], architecture: str) -> Any:
    if architecture in _PLUS_ONE and key.endswith("norm.weight"):
        return tensor + 1
    if key.endswith("shared_expert_gate.weight"):
        return tensor.squeeze()
    if architecture == "gpt2" and key.endswith(_TRANSPOSED):
        return tensor.T
    turns = dict(zip(("q_proj.weight", "k_proj.weight"), _heads(config), strict=True))
    count = next((count for end, count in turns.items() if key.endswith(end)), None)
    if architecture not in _PERMUTED or count is None:
        return tensor
    return tensor.reshape(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)


def _heads(config: Mapping[str, Any]) -> tuple[int, int]:
    heads = config.get("num_attention_heads", config.get("n_head"))
    return heads, config.get("num_key_value_heads", heads)


def _layers(config: Mapping[str, Any]) -> int:
    return int(config.get("num_hidden_layers", config.get("n_layer")))
