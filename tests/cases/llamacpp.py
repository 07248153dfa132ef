"""What llama.cpp makes of a base and an adapter in GGUF."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from tests.cases.oracle_models import TOKENS, VOCABULARY


def likeliest(base: Path, adapter: Path | None = None, tokens: tuple[int, ...] = TOKENS) -> dict[int, float]:
    """The log-probabilities of the likeliest next tokens by llama.cpp.

    Raises:
        RuntimeError: if it does not load the files, with what it says.
    """
    words = [
        sys.executable,
        "-m",
        "tests.cases.ask_llamacpp",
        json.dumps(tokens),
        str(base),
        *([str(adapter)] if adapter else []),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return {int(token): value for token, value in json.loads(done.stdout.splitlines()[-1]).items()}


def write_base(folder: Path, path: Path) -> Path:
    """A llama of transformers as GGUF, with a vocabulary of single characters."""
    config = json.loads((folder / "config.json").read_text())
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    out = gguf.GGUFWriter(path, "llama")
    out.add_type("model")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(keys)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    out.add_rope_dimension_count(config["hidden_size"] // heads)
    out.add_vocab_size(VOCABULARY)
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_tokenizer_model("llama")
    out.add_token_list(["<unk>", "<s>", "</s>", *(chr(0x4E00 + i) for i in range(VOCABULARY - 3))])
    out.add_token_scores([0.0] * VOCABULARY)
    out.add_token_types([2, 3, 3] + [1] * (VOCABULARY - 3))
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for key, tensor in _tensors(folder).items():
        count = heads if key.endswith("q_proj.weight") else keys if key.endswith("k_proj.weight") else None
        turned = tensor if count is None else _turned(tensor, count)
        out.add_tensor(names.get_name(key, try_suffixes=(".weight",)), np.ascontiguousarray(turned))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _tensors(folder: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = load_file(folder / "model.safetensors")
    return found


def _turned(rows: Any, heads: int) -> Any:
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
