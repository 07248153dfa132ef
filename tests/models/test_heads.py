"""Bases of many forms: with a class that is not named, with parts, with another head, without a head."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartForSequenceClassification,
    BertForQuestionAnswering,
    BertModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaModel,
    T5EncoderModel,
)

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.core.meta import Meta
from adaptzip.errors import RefusedError
from adaptzip.models.kinds import Kind
from adaptzip.models.live.running import load_base, load_teacher
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, adapter, head, save

CPU = torch.device("cpu")


def with_task(lora: Adapter, task: str, **config: object) -> Adapter:
    return resolved(replace(lora, meta=Meta(config={"task_type": task, **config})))


def change(folder: Path, **values: object) -> Path:
    """A base with other values in its config.json; None takes one out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def questions() -> Any:
    tiny_peft.set_seed(0)
    return BertForQuestionAnswering(tiny_peft.bert().config)


def test_a_head_whose_outputs_are_not_compared_is_named(tmp_path: Path) -> None:
    base, lora = save(questions, tmp_path), adapter(questions(), "query")
    with pytest.raises(RefusedError, match="the adapter is for the task QUESTION_ANS"):
        load_teacher(base, with_task(lora, "QUESTION_ANS"), CPU)
    with pytest.raises(RefusedError, match="the base is a BertForQuestionAnswering"):
        load_teacher(base, lora, CPU)
    assert load_teacher(base, with_task(lora, "FEATURE_EXTRACTION"), CPU).kind == "encoder"
    assert load_teacher(base, lora, CPU, "encoder").kind == "encoder"


@pytest.mark.parametrize(
    ("make", "end", "task", "kind"),
    [
        (tiny_peft.llama, "q_proj", "CAUSAL_LM", "causal"),
        (tiny_peft.llama, "q_proj", "", "causal"),
        (tiny_peft.t5, ".q", "SEQ_2_SEQ_LM", "seq2seq"),
        (tiny_peft.t5, ".q", "", "seq2seq"),
        (lambda: BertModel(tiny_peft.bert().config), "query", "", "encoder"),
        (lambda: BertModel(tiny_peft.bert().config), "query", "FEATURE_EXTRACTION", "encoder"),
    ],
)
def test_a_base_that_names_no_class(make: Callable[[], Any], end: str, task: str, kind: Kind, tmp_path: Path) -> None:
    base = change(save(make, tmp_path), architectures=None)
    assert load_teacher(base, with_task(adapter(make(), end), task), CPU).kind == kind


def test_a_language_model_without_its_head_is_refused(tmp_path: Path) -> None:
    base = save(lambda: LlamaModel(tiny_peft.llama().config), tmp_path)
    with pytest.raises(RefusedError, match="lm_head.weight, which LlamaForCausalLM has, is neither"):
        load_teacher(base, adapter(tiny_peft.llama(), "q_proj"), CPU, "causal")


def test_a_head_of_other_classes_than_the_bases_is_refused(tmp_path: Path) -> None:
    base = change(save(tiny_peft.bert, tmp_path), id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    lora = adapter(tiny_peft.bert(), "query")
    with pytest.raises(RefusedError, match=r"classifier.bias is \[3\], where config.json makes it \[2\]"):
        load_teacher(base, lora, CPU)
    assert load_teacher(base, head(lora, classes=5), CPU).outputs == 5


def gemma() -> Any:
    tiny_peft.set_seed(0)
    text = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "head_dim": 8, "num_key_value_heads": 1, "max_position_embeddings": 16, "sliding_window": 8, "pad_token_id": 0,
        "eos_token_id": 1, "bos_token_id": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    tokens = {"boi_token_index": 28, "eoi_token_index": 29, "image_token_index": 30}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    )


def test_a_language_model_within_a_larger_one(tmp_path: Path) -> None:
    base, lora = save(gemma, tmp_path), adapter(gemma(), "language_model.layers.0.self_attn.q_proj")
    loaded = load_teacher(base, with_task(lora, "CAUSAL_LM"), CPU)
    assert (loaded.kind, loaded.known, loaded.longest(99), loaded.ends) == ("causal", 32, 99, frozenset({1}))
    (batch,) = loaded.batches(TEXTS[:1], 1, 9)
    with torch.no_grad():
        expected = loaded.model(input_ids=batch.ids, attention_mask=torch.ones_like(batch.ids)).logits[0]
        assert torch.equal(loaded(batch), expected)
    assert load_base(base, [], CPU).kind == "causal"


def test_an_encoder_without_its_decoder(tmp_path: Path) -> None:
    def make() -> Any:
        tiny_peft.set_seed(0)
        return T5EncoderModel(tiny_peft.t5().config)

    base, lora = save(make, tmp_path), adapter(make(), ".q")
    loaded = load_teacher(base, with_task(lora, "FEATURE_EXTRACTION"), CPU)
    ids = torch.tensor([[2, 3, 4, 5, 6, 7]])
    with torch.no_grad():
        rows = loaded(loaded.batches(TEXTS[:1], 1, 9)[0])
        torch.testing.assert_close(rows, loaded.model(input_ids=ids).last_hidden_state.mean(1))
    bart = save(tiny_peft.bart, tmp_path / "bart")
    with pytest.raises(RefusedError, match="transformers has no AutoModel[A-Za-z]* for the model type 'bart'"):
        load_teacher(bart, with_task(adapter(tiny_peft.bart(), "v_proj"), "FEATURE_EXTRACTION"), CPU)


def test_a_classifier_with_a_decoder(tmp_path: Path) -> None:
    def make() -> Any:
        tiny_peft.set_seed(0)
        config = tiny_peft.bart().config
        config.num_labels, config.eos_token_id = 3, 7
        return BartForSequenceClassification(config)

    base, lora = save(make, tmp_path), adapter(make(), "v_proj")
    loaded = load_teacher(base, lora, CPU)
    assert loaded.kind == "classifier"
    with torch.no_grad():
        together = loaded(loaded.batch([[2, 3, 7], [4, 5, 6, 5, 7]]))
        alone = torch.cat([loaded(loaded.batch([ids])) for ids in ([2, 3, 7], [4, 5, 6, 5, 7])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    # It reads the token that ends a text, of which there must be one in each.
    with pytest.raises(RefusedError, match="BartForSequenceClassification does not run on these texts"):
        loaded(loaded.batch([[2, 3, 7], [4, 7, 6, 5, 7]]))


def test_what_a_decoder_begins_with_may_stand_beside_the_config(tmp_path: Path) -> None:
    base, lora = save(tiny_peft.t5, tmp_path), adapter(tiny_peft.t5(), ".q")
    whole = load_teacher(base, lora, CPU)
    change(base, decoder_start_token_id=None)
    generation = base / "generation_config.json"
    generation.write_text(json.dumps({"decoder_start_token_id": 0}))
    part = load_teacher(base, lora, CPU)
    batch = whole.batch([[2, 3]], torch.tensor([[4, 5]]))
    assert torch.equal(part(batch), whole(batch))
    generation.unlink()
    with pytest.raises(RefusedError, match="has a decoder_start_token_id"):
        load_teacher(base, lora, CPU)


def test_a_vocabulary_that_the_adapter_enlarges(tmp_path: Path) -> None:
    def make() -> Any:
        return tiny_peft.llama(tie_word_embeddings=True)

    base, lora = save(make, tmp_path), adapter(make(), "q_proj")
    table = torch.randn(35, 16, generator=torch.Generator().manual_seed(3))
    lora = resolved(replace(lora, extras={"base_model.model.model.embed_tokens.weight": table}))
    loaded = load_teacher(base, lora, CPU)
    assert loaded.known == 35
    state = loaded.model.state_dict()
    assert torch.equal(state["model.embed_tokens.weight"], table)
    assert torch.equal(state["lm_head.weight"], table)
    untied = save(tiny_peft.llama, tmp_path / "untied")
    with pytest.raises(RefusedError, match="35 tokens, and no lm_head.weight for them"):
        load_teacher(untied, lora, CPU)
