"""Modules that share their weights, and modules trained whole: as PEFT's live model has them, text by text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BartForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.live.running import Loading, load_teacher
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft
from tests.cases.models_on_disk import save
from tests.cases.tasks import Task, llama, trained
from tests.cases.teachers import CPU

ROWS = ([2, 3, 4, 5, 7], [7, 3, 6, 1, 7])
SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_labels": 3}


def albert() -> Any:
    """One layer that runs three times."""
    tiny_peft.set_seed(0)
    config = AlbertConfig(embedding_size=8, num_hidden_layers=3, max_position_embeddings=16, **SIZES)
    return AlbertForSequenceClassification(config)


def roberta() -> Any:
    tiny_peft.set_seed(0)
    config = RobertaConfig(num_hidden_layers=1, max_position_embeddings=20, pad_token_id=0, **SIZES)
    return RobertaForSequenceClassification(config)


def bart_classifier() -> Any:
    tiny_peft.set_seed(0)
    config = tiny_peft.bart().config
    config.num_labels, config.eos_token_id = 3, 7
    return BartForSequenceClassification(config)


tied = llama(tie_word_embeddings=True)
biased = llama(attention_bias=True)
TEXT: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
TARGET: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "q_proj"]}
CLASS = {"task_type": "SEQ_CLS", "target_modules": ["query", "q_proj"]}
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "t5, update of shared": (tiny_peft.t5, {**TARGET, "target_modules": ["shared", "q"]}),
    "t5, update of one side": (tiny_peft.t5, {**TARGET, "target_modules": ["encoder.embed_tokens"]}),
    "t5, update of both sides": (tiny_peft.t5, {**TARGET, "target_modules": ["embed_tokens"]}),
    "t5, update of the output": (tiny_peft.t5, {**TARGET, "target_modules": ["lm_head", "q"]}),
    "t5, shared trained": (tiny_peft.t5, {**TARGET, "modules_to_save": ["shared"]}),
    "t5, shared ensured": (tiny_peft.t5, {**TARGET, "modules_to_save": ["shared"], "ensure_weight_tying": True}),
    "t5, output ensured": (tiny_peft.t5, {**TARGET, "modules_to_save": ["lm_head"], "ensure_weight_tying": True}),
    "t5, rows of shared": (tiny_peft.t5, {**TARGET, "trainable_token_indices": {"shared": [1, 2]}}),
    "t5, rows of both sides": (tiny_peft.t5, {**TARGET, "trainable_token_indices": {"embed_tokens": [4, 5]}}),
    "t5, rows of one side": (tiny_peft.t5, {**TARGET, "trainable_token_indices": {"encoder.embed_tokens": [3]}}),
    "t5, rows of the output": (tiny_peft.t5, {**TARGET, "trainable_token_indices": {"lm_head": [3, 4]}}),
    "t5, other rows": (tiny_peft.t5, {**TARGET, "trainable_token_indices": {"shared": [3], "lm_head": [4]}}),
    "bart, rows": (tiny_peft.bart, {**TARGET, "trainable_token_indices": [1, 2]}),
    "bart, bias": (tiny_peft.bart, {**TARGET, "bias": "all"}),
    "bart, norms": (tiny_peft.bart, {**TARGET, "modules_to_save": ["layernorm_embedding"]}),
    "bart classifier": (bart_classifier, {**CLASS, "modules_to_save": ["classification_head"]}),
    "bart classifier, rows": (bart_classifier, {**CLASS, "trainable_token_indices": {"shared": [2, 3]}}),
    "albert": (albert, CLASS),
    "albert, bias": (albert, {**CLASS, "bias": "lora_only"}),
    "albert, DoRA": (albert, {**CLASS, "use_dora": True}),
    "albert, a layer": (albert, {**CLASS, "modules_to_save": ["classifier", "ffn"]}),
    "roberta, container": (roberta, CLASS),
    "roberta, update of the head": (roberta, {**CLASS, "target_modules": ["query", "classifier.dense", "out_proj"]}),
    "tied, rows": (tied, {**TEXT, "trainable_token_indices": [2, 3]}),
    "tied, rows of the output": (tied, {**TEXT, "trainable_token_indices": {"lm_head": [2, 3]}}),
    "tied, equal rows": (tied, {**TEXT, "trainable_token_indices": {"embed_tokens": [2], "lm_head": [2]}}),
    "tied, other rows": (tied, {**TEXT, "trainable_token_indices": {"embed_tokens": [2], "lm_head": [3]}}),
    "tied, output ensured": (tied, {**TEXT, "modules_to_save": ["lm_head"], "ensure_weight_tying": True}),
    "untied, rows of the output": (llama(), {**TEXT, "trainable_token_indices": {"lm_head": [2, 3]}}),
    "a norm and a block": (llama(), {**TEXT, "modules_to_save": ["input_layernorm", "mlp"]}),
    "parameters": (llama(), {**TEXT, "target_parameters": ["self_attn.k_proj.weight"]}),
    "an update of biases": (biased, {**TEXT, "lora_bias": True}),
    "a router": (tiny_peft.mixtral, {**TEXT, "modules_to_save": ["gate"]}),
    "experts": (tiny_peft.mixtral, {**TEXT, "modules_to_save": ["experts"]}),
    "experts' parameters": (
        tiny_peft.mixtral,
        {**TEXT, "target_parameters": ["mlp.experts.down_proj", "mlp.gate.weight"], "use_rslora": True},
    ),
}
CLASSES = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
}


def logits(task: Task, merged: bool) -> list[Tensor]:
    """PEFT's, one text at a time."""
    options = {"num_labels": 3} if task.loads is AutoModelForSequenceClassification else {}
    model = task.live(merged=merged, options=options)
    found = []
    for row in ROWS:
        ids = torch.tensor([row])
        labels = {"labels": ids} if task.loads is AutoModelForSeq2SeqLM else {}
        with torch.no_grad():
            found.append(model(input_ids=ids, **labels).logits[0])
    return found


@pytest.mark.parametrize("merged", [False, True], ids=["live", "merged"])
@pytest.mark.parametrize("case", CASES)
def test_as_peft_has_it(case: str, merged: bool, tmp_path: Path) -> None:
    make, config = CASES[case]
    task = trained(tmp_path, make, CLASSES[config["task_type"]], **config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_teacher(task.base, read(task.adapter), CPU, loading=Loading(merged=merged))
    for row, expected in zip(ROWS, logits(task, merged), strict=True):
        found = loaded(loaded.batch([row]))
        torch.testing.assert_close(found.reshape(expected.shape), expected, atol=1e-5, rtol=1e-5)


def test_what_was_trained_tied_and_is_not_loaded_so_is_refused(tmp_path: Path) -> None:
    config: dict[str, Any] = {**TARGET, "target_modules": ["lm_head"], "ensure_weight_tying": True}
    task = trained(tmp_path, tiny_peft.t5, AutoModelForSeq2SeqLM, **config)
    with pytest.raises(RefusedError, match="share one weight and were trained tied"):
        load_teacher(task.base, read(task.adapter), CPU)


def test_rows_that_the_embedding_lacks_are_named(tmp_path: Path) -> None:
    more: dict[str, Any] = {**TEXT, "trainable_token_indices": [2, 35]}
    task = trained(tmp_path, llama(vocab_size=40), AutoModelForCausalLM, **more)
    base = tmp_path / "smaller"
    save(llama(), base)
    with pytest.raises(BaseModelError, match=r"embed_tokens.weight is .* up to the one of token 35"):
        load_teacher(base, read(task.adapter), CPU)
