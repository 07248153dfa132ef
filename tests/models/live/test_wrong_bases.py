"""A base model, a task or a head that does not go with the adapter: the cause, what to do, and how early it is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import BertModel, ViTConfig, ViTForImageClassification

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.errors import AdaptzipError, BaseModelError, RefusedError
from adaptzip.models.kinds import Kind
from adaptzip.models.live.running import Loading, load_bare, load_teacher
from tests.cases import tiny_peft
from tests.cases.models_on_disk import adapter, head, save
from tests.cases.teachers import CPU
from tests.models.test_heads import change, questions, with_task

STRICT = Loading(strict=True)


def encoder() -> Any:
    tiny_peft.set_seed(0)
    return BertModel(tiny_peft.bert().config)


def named(lora: Adapter, base: str) -> Adapter:
    return replace(lora, meta=replace(lora.meta, base_model=base))


def told(base: Path, lora: Adapter, kind: Kind | None = None, *, loading: Loading = STRICT) -> AdaptzipError:
    with pytest.raises((BaseModelError, RefusedError)) as caught:
        load_teacher(base, resolved(lora), CPU, kind, loading=loading)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_another_architecture_is_the_cause_and_not_its_missing_head(tmp_path: Path) -> None:
    lora = named(with_task(head(adapter(tiny_peft.bert(), "query")), "SEQ_CLS"), "google-bert/bert-base-uncased")
    error = told(save(tiny_peft.llama, tmp_path), lora)
    assert isinstance(error, BaseModelError)
    assert "the model has no bert.encoder.layer.0.attention.self.query" in str(error)
    assert error.hint == (
        "is this the adapter's base model, google-bert/bert-base-uncased? It is run for `kind='classifier'`"
    )


@pytest.mark.parametrize(("task", "make"), [("SEQ_CLS", encoder), ("TOKEN_CLS", encoder), ("SEQ_CLS", tiny_peft.llama)])
def test_a_classifier_without_any_head_is_refused_where_asked(
    task: str, make: Callable[[], Any], tmp_path: Path
) -> None:
    base, lora = save(make, tmp_path), with_task(adapter(make(), "query", "q_proj"), task)
    error = told(base, lora)
    assert f"the adapter is for {task}, and neither it nor the base" in str(error)
    assert "`kind='encoder'`" in str(error.hint)
    with pytest.raises(RefusedError, match="has a trained head for that"):
        load_teacher(change(base, architectures=None), lora, CPU, loading=STRICT)
    assert load_bare(base, lora, CPU, "encoder", loading=STRICT).kind == "encoder"


def test_what_it_brings_instead_is_named(tmp_path: Path) -> None:
    lora = head(with_task(adapter(encoder(), "query"), "SEQ_CLS"))
    extras = {key.replace("classifier", "my_head"): tensor for key, tensor in lora.extras.items()}
    base = save(encoder, tmp_path / "bare")
    assert "neither it (beside its updates it has my_head.bias) nor" in str(told(base, replace(lora, extras=extras)))
    classifier = save(tiny_peft.bert, tmp_path / "classifier")
    error = told(classifier, replace(lora, extras=extras))
    assert "BertForSequenceClassification has no my_head.weight, which the adapter brings" in str(error)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_task_that_is_forced_runs_or_is_named_in_the_hint(kind: Kind, tmp_path: Path) -> None:
    base, lora = save(tiny_peft.llama, tmp_path), adapter(tiny_peft.llama(), "q_proj")
    if kind in ("causal", "encoder"):
        assert load_teacher(base, lora, CPU, kind).kind == kind
        return
    error = told(base, lora, kind)
    assert f"`kind='{kind}'`" in f"{error} {error.hint}"


def test_a_decoder_saved_without_its_head(tmp_path: Path) -> None:
    def bare(**more: object) -> Callable[[], Any]:
        return lambda: tiny_peft.llama(**more).model

    tied, untied = bare(tie_word_embeddings=True), bare()
    lora = with_task(adapter(tiny_peft.llama(), "q_proj"), "CAUSAL_LM")
    loaded = load_teacher(save(tied, tmp_path / "tied"), lora, CPU, loading=STRICT)
    assert loaded.kind == "causal"
    assert loaded(loaded.batch([[2, 3]])).shape == (2, 32)
    assert "lm_head.weight, which LlamaForCausalLM has" in str(told(save(untied, tmp_path / "untied"), lora))


def test_configurations_without_a_type_or_of_other_sizes(tmp_path: Path) -> None:
    base, lora = save(tiny_peft.llama, tmp_path), adapter(tiny_peft.llama(), "q_proj")
    change(base, vocab_size=48)
    error = told(base, lora)
    assert "weight is [32, 16], where config.json makes it [48, 16] in LlamaForCausalLM" in str(error)
    assert error.hint == "give a config.json that fits the weights; it is run for `kind='causal'` now"
    (base / "config.json").write_text("{}")
    assert "config.json: names no model_type" in str(told(base, lora))


def test_a_trained_head_without_a_place(tmp_path: Path) -> None:
    base, lora = save(tiny_peft.bert, tmp_path), head(adapter(tiny_peft.bert(), "query"))
    error = told(base, lora, "causal")
    assert "for which `kind='causal'` has no place" in str(error)
    assert "classifier, multilabel, scores, tokens" in str(error.hint)


@pytest.mark.parametrize(
    ("part", "task"),
    [("qa_outputs", "question answering"), ("v_head.summary", "a value head"), ("cls.predictions", "masked language")],
)
def test_heads_of_other_tasks_are_told_by_their_names(part: str, task: str, tmp_path: Path) -> None:
    base, lora = save(encoder, tmp_path), adapter(encoder(), "query")
    lora = replace(lora, extras={f"base_model.model.{part}.weight": torch.ones(2, 16)})
    assert task in str(told(base, lora))
    assert f"{part}.weight" in str(told(base, lora, "encoder"))


def test_a_model_of_pictures(tmp_path: Path) -> None:
    def pictures() -> Any:
        sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
        return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **sizes))

    base, lora = save(pictures, tmp_path), head(adapter(pictures(), "query", "q_proj"))
    assert "the base is a ViTForImageClassification" in str(told(base, lora))
    error = told(base, adapter(pictures(), "query", "q_proj"), "encoder")
    assert "the model type 'vit' takes pixel_values" in str(error)


def test_model_types_that_transformers_does_not_have(tmp_path: Path) -> None:
    base, lora = save(tiny_peft.llama, tmp_path), adapter(tiny_peft.llama(), "q_proj")
    change(base, model_type="strange")
    error = told(base, lora)
    assert isinstance(error, BaseModelError)
    assert "does not know the model type 'strange'" in str(error)
    change(base, auto_map={"AutoConfig": "configuration.Config"})
    error = told(base, lora)
    assert isinstance(error, RefusedError)
    assert "is defined by code in its folder" in str(error)


def test_a_head_that_was_trained_on_another_base(tmp_path: Path) -> None:
    # A classifier of texts has a pooler, which one of tokens lacks.
    base, lora = save(tiny_peft.bert_tokens, tmp_path), with_task(adapter(tiny_peft.bert(), "query"), "SEQ_CLS")
    error = told(base, head(lora))
    assert "bert.pooler.dense.bias, which BertForSequenceClassification has, is neither" in str(error)
    assert "give the base model that the adapter and its head were trained on" in str(error.hint)


EARLY = """
import sys
from pathlib import Path
import torch
from adaptzip.models.live.running import Loading, load_bare
from adaptzip.errors import RefusedError
from adaptzip.restoring.reading import read
try:
    load_bare(Path(sys.argv[1]), read(sys.argv[2]), torch.device("cpu"), loading=Loading(strict=True))
except RefusedError as error:
    print(error)
print("transformers" in sys.modules)
"""


def test_what_configurations_tell_is_told_before_transformers_is_imported(tmp_path: Path) -> None:
    base = save(questions, tmp_path / "base")
    config = {"task_type": "QUESTION_ANS", "target_modules": ["query"]}
    tiny_peft.train(questions(), tmp_path / "a", **config)
    run = subprocess.run(
        [sys.executable, "-c", EARLY, base, tmp_path / "a"], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == [
        "the adapter is for the task QUESTION_ANS, whose outputs are not compared",
        "False",
    ]
