"""Merged weights are bit for bit those of PEFT's `merge_and_unload`: kinds of models beside those of the matrix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as tf

from adaptzip.restoring.merging import merge
from tests.cases.merge_cases import (
    Case,
    assert_same_tensors,
    bert_encoder,
    build,
    gpt2,
    gpt_oss,
    llama,
    mixtral,
    qwen_moe,
    resnet,
    tensors_of,
    tied_llama,
    videomae,
    vit,
    wav2vec2,
)

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
CONV1D = ["c_attn", "c_proj", "c_fc"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

LINEAR = Case(llama, {"target_modules": "all-linear", "lora_alpha": 6})
CASES = {
    "conv1d, wrong flag": Case(gpt2, {"target_modules": CONV1D}),
    "embedding dora": Case(llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "tied embedding": Case(tied_llama, {"target_modules": ["q_proj", "embed_tokens"]}),
    "tied embedding, both": Case(tied_llama, {"target_modules": ["lm_head", "embed_tokens"]}),
    "tied embedding beside conv1d": Case(gpt2, {"target_modules": ["wte", "c_attn"], "fan_in_fan_out": True}),
    "tied tokens": Case(tied_llama, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}),
    "tied head": Case(tied_llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tied input": Case(tied_llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "tied, two copies": Case(
        tied_llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    ),
    "tied, kept so": Case(
        tied_llama,
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "qwen experts": Case(qwen_moe, {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    "transposed experts": Case(gpt_oss, {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    "conv 1d": Case(wav2vec2, {"target_modules": r".*(conv_layers\.\d\.conv|q_proj)"}),
    "conv 2d": Case(resnet, {"target_modules": ["convolution"]}),
    "conv 2d dora": Case(resnet, {"target_modules": ["convolution"], "use_dora": True}),
    "vit": Case(
        vit,
        {
            "target_modules": ["q_proj", "fc1", "fc2", "o_proj"],
            "bias": "all",
            "modules_to_save": ["classifier"],
        },
    ),
    "router": Case(mixtral, {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]}),
    "conv 3d": Case(videomae, {"target_modules": ["projection", "query"]}),
    "new head on an encoder": Case(
        bert_encoder,
        {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
        tf.AutoModelForSequenceClassification,
        {"num_labels": 5},
    ),
    "new token head on an encoder": Case(
        bert_encoder,
        {"target_modules": ["query", "value"], "task_type": "TOKEN_CLS"},
        tf.AutoModelForTokenClassification,
        {"num_labels": 4},
    ),
}
KEEPS_FLOAT32 = {"transposed experts"}
"""transformers loads some of these models' tensors in float32 where the base has float16."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "safe"), [(FLOAT32, False), (BFLOAT16, False), (FLOAT16, True)])
def test_merged_weights_are_those_of_peft(name: str, dtype: torch.dtype, safe: bool, tmp_path: Path) -> None:
    if dtype is FLOAT16 and name in KEEPS_FLOAT32:
        dtype = BFLOAT16
    built = build(CASES[name], tmp_path, dtype=dtype, safe=safe)
    before = tensors_of(built.base)
    report = merge(built.adapter, built.base, tmp_path / "merged", safe_merge=safe)
    found = tensors_of(report.path)
    pooler = {key: tensor for key, tensor in found.items() if ".pooler." in key}
    assert_same_tensors(found, {**pooler, **built.expected})
    assert any(key not in before or not torch.equal(before[key], found[key]) for key in found)
    config = json.loads((report.path / "config.json").read_text())
    for key in ("architectures", "tie_word_embeddings", "id2label", "label2id", "vocab_size"):
        assert config.get(key) == built.config.get(key), key


def test_the_two_rules_differ(tmp_path: Path) -> None:
    built = build(LINEAR, tmp_path, dtype=BFLOAT16)
    merge(built.adapter, built.base, tmp_path / "once")
    merge(built.adapter, built.base, tmp_path / "twice", safe_merge=True)
    once, twice = tensors_of(tmp_path / "once"), tensors_of(tmp_path / "twice")
    assert any(not torch.equal(once[key], twice[key]) for key in once)


def test_scale_multiplies_every_update(tmp_path: Path) -> None:
    built = build(LINEAR, tmp_path)
    merge(built.adapter, built.base, tmp_path / "half", scale=0.5)
    merge(built.adapter, built.base, tmp_path / "none", scale=0)
    before, half = tensors_of(built.base), tensors_of(tmp_path / "half")
    assert_same_tensors(tensors_of(tmp_path / "none"), before)
    for key, tensor in built.expected.items():
        torch.testing.assert_close(half[key] - before[key], (tensor - before[key]) / 2, rtol=1e-4, atol=1e-6)
