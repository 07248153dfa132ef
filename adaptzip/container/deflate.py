"""Small texts of the file, deflated with a dictionary of what PEFT configurations usually say."""

from __future__ import annotations

import zlib

from adaptzip.errors import FormatError

LIMIT = 64 * 2**20
"""Longest text that a reader inflates."""

DICTIONARY = (
    b'{"bias": "lora_only", "all", "base_model_class": "BertModel", "parent_library": "transformers.models.'
    b'"TOKEN_CLS", "SEQ_2_SEQ_LM", "QUESTION_ANS", "FEATURE_EXTRACTION", "SEQ_CLS", "classifier", "score", "lm_head", '
    b'"embed_tokens", "lora_magnitude_vector", "base_layer", "extra", "bfloat16", "int8", "BF16", "F16", "F32", '
    b'"query_key_value", "dense", "dense_h_to_4h", "fc1", "fc2", "out_proj", "c_attn", "c_proj", "c_fc", "Wqkv", '
    b'"attention.output.dense", "intermediate.dense", "output.dense", "query", "key", "value", '
    b'"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "mistralai/", "meta-llama/Llama-", '
    b'"Qwen/Qwen2.5-", "google/gemma-", "HuggingFaceTB/", "roberta-base", "sentence-transformers/all-MiniLM-L6-v2", '
    b'[["extra","base_model.model.classifier.weight","F32",[768,768],"F32"],["extra",'
    b'"base_model.model.classifier.dense.bias","F32",[768],"F32"],["extra","base_model.model.classifier.out_proj.weight"'
    b'{\n  "alora_invocation_tokens": null,\n  "alpha_pattern": {},\n  "arrow_config": null,\n  "auto_mapping": null,\n  '
    b'"base_model_name_or_path": "",\n  "bias": "none",\n  "corda_config": null,\n  "ensure_weight_tying": false,\n  '
    b'"eva_config": null,\n  "exclude_modules": null,\n  "fan_in_fan_out": false,\n  "inference_mode": true,\n  '
    b'"init_lora_weights": true,\n  "kasa_config": null,\n  "layer_replication": null,\n  "layers_pattern": null,\n  '
    b'"layers_to_transform": null,\n  "loftq_config": {},\n  "lora_alpha": 16,\n  "lora_bias": false,\n  '
    b'"lora_dropout": 0.05,\n  "megatron_config": null,\n  "megatron_core": "megatron.core",\n  '
    b'"modules_to_save": null,\n  "peft_type": "LORA",\n  "peft_version": "0.21.2",\n  "qalora_group_size": 16,\n  '
    b'"r": 16,\n  "rank_pattern": {},\n  "revision": null,\n  "target_modules": [\n    "q_proj",\n    "v_proj"\n  ],\n  '
    b'"target_parameters": null,\n  "task_type": "CAUSAL_LM",\n  "trainable_token_indices": null,\n  '
    b'"use_dora": false,\n  "use_qalora": false,\n  "use_rslora": false\n}'
    b'{"alora_invocation_tokens":null,"alpha_pattern":{},"arrow_config":null,"auto_mapping":null,'
    b'"base_model_name_or_path":"","bias":"none","corda_config":null,"ensure_weight_tying":false,"eva_config":null,'
    b'"exclude_modules":null,"fan_in_fan_out":false,"inference_mode":true,"init_lora_weights":true,'
    b'"kasa_config":null,"layer_replication":null,"layers_pattern":null,"layers_to_transform":null,'
    b'"loftq_config":{},"lora_alpha":16,"lora_bias":false,"lora_dropout":0.05,"lora_ga_config":null,'
    b'"megatron_config":null,"megatron_core":"megatron.core","modules_to_save":null,"monteclora_config":null,'
    b'"peft_type":"LORA","peft_version":"0.21.2","qalora_group_size":16,"r":16,"rank_pattern":{},"revision":null,'
    b'"target_modules":["q_proj","v_proj"],"target_parameters":null,"task_type":"CAUSAL_LM",'
    b'"trainable_token_indices":null,"use_bdlora":null,"use_dora":false,"use_qalora":false,"use_rslora":false}'
)
"""Part of the format: formats/adz-1.md prints its sha256."""


def deflate(text: bytes) -> bytes:
    """Raw deflate (RFC 1951) with `DICTIONARY`."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


def inflate(data: bytes | memoryview) -> bytes:
    """Inverse of `deflate`.

    Raises:
        FormatError: if `data` is damaged or inflates to more than `LIMIT` bytes.
    """
    unpacker = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(data, LIMIT)
    except zlib.error as error:
        raise FormatError(f"a deflated text is damaged: {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise FormatError(f"a deflated text is damaged or longer than {LIMIT} bytes")
    return text
