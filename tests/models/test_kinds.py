"""What a model is for, what its rows are, and which label belongs to which row."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertModel, LlamaConfig, LlamaForSequenceClassification

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipWarning, RefusedError
from adaptzip.fitting.calibration.gradients import module_gradients, tally_gradients
from adaptzip.models.kinds import Kind
from adaptzip.models.live.running import NO_LABEL, Batch, load_bare, load_base, load_teacher
from benchmarks.distance import distance
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, adapter, head, save

CPU = torch.device("cpu")
ALL: list[tuple[Callable[[], Any], Kind, str]] = [
    (tiny_peft.llama, "causal", "v_proj"),
    (tiny_peft.bert, "classifier", "value"),
    (tiny_peft.bert_tokens, "tokens", "value"),
    (lambda: BertModel(tiny_peft.bert().config), "encoder", "value"),
    (tiny_peft.t5, "seq2seq", "q"),
    (tiny_peft.bart, "seq2seq", "v_proj"),
]


def with_task(lora: Adapter, task: str) -> Adapter:
    return resolved(replace(lora, meta=Meta(config={"task_type": task})))


def bare_encoder() -> Any:
    return BertModel(tiny_peft.bert().config)


@pytest.mark.parametrize(("make", "kind", "end"), ALL)
def test_the_base_tells_its_kind(make: Callable[[], Any], kind: Kind, end: str, tmp_path: Path) -> None:
    base, lora = save(make, tmp_path), adapter(make(), end)
    loaded = load_teacher(base, lora, CPU)
    assert loaded.kind == kind
    (batch,) = loaded.batches(TEXTS, 8, 64)
    rows = loaded(batch)
    widths = {"causal": 32, "classifier": 3, "tokens": 3, "encoder": 16, "seq2seq": 32}
    assert rows.shape == (len(TEXTS) if kind in ("classifier", "encoder") else batch.tokens, widths[kind])
    # Padding does not reach what counts.
    alone = loaded(loaded.batches(TEXTS[:1], 8, 64)[0])
    place = sorted(range(len(TEXTS)), key=lambda i: len(TEXTS[i])).index(0)
    before = int(batch.mask[:place].sum()) if len(rows) == batch.tokens else place
    torch.testing.assert_close(rows[before : before + len(alone)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "task", "brings_head", "kind", "told"),
    [
        (tiny_peft.bert, "FEATURE_EXTRACTION", False, "encoder", None),
        (tiny_peft.bert, "CAUSAL_LM", False, "classifier", "no head for that: classes of texts are compared"),
        (bare_encoder, "TOKEN_CLS", True, "tokens", None),
        (bare_encoder, "SEQ_CLS", True, "classifier", None),
        (bare_encoder, "SEQ_CLS", False, "encoder", "SEQ_CLS, but the base has no head for that: embeddings"),
        (tiny_peft.bert_tokens, "FEATURE_EXTRACTION", True, "tokens", "brings the head .* classes of tokens"),
        (tiny_peft.llama, "SEQ_2_SEQ_LM", False, "causal", "no head for that: next tokens"),
        (tiny_peft.llama, "CAUSAL_LM", False, "causal", None),
    ],
)
def test_the_task_type_counts_where_it_can_be(
    make: Callable[[], Any], task: str, brings_head: bool, kind: Kind, told: str | None, tmp_path: Path
) -> None:
    lora = adapter(make(), "value", "v_proj")
    lora = with_task(head(lora) if brings_head else lora, task)
    with nullcontext() if told is None else pytest.warns(AdaptzipWarning, match=told):
        assert load_teacher(save(make, tmp_path), lora, CPU).kind == kind


def test_the_kind_can_be_given(tmp_path: Path) -> None:
    base, lora = save(bare_encoder, tmp_path), head(adapter(bare_encoder(), "value"), classes=5)
    loaded = load_teacher(base, lora, CPU, "tokens")
    assert loaded.kind == "tokens"
    (batch,) = loaded.batches(TEXTS, 8, 64)
    assert loaded(batch).shape == (batch.tokens, 5)
    with pytest.raises(RefusedError, match="is neither in the base nor in the adapter"):
        load_teacher(base, adapter(bare_encoder(), "value"), CPU, "tokens")


def test_classes_are_named_by_the_config(tmp_path: Path) -> None:
    base = save(tiny_peft.bert_tokens, tmp_path)
    lora = adapter(tiny_peft.bert_tokens(), "value")
    assert load_teacher(base, lora, CPU).classes == ("O", "NAME", "PLACE")
    assert load_teacher(base, lora, CPU, "encoder").classes == ()


def test_targets_are_forced_on_a_seq2seq_model(tmp_path: Path) -> None:
    base = save(tiny_peft.t5, tmp_path)
    loaded = load_teacher(base, adapter(tiny_peft.t5(), "q"), CPU)
    labels = torch.tensor([[4, 5, 6, 1], [7, 1, NO_LABEL, NO_LABEL]])
    batch = loaded.batch([[2, 3], [4, 5, 6]], labels)
    rows = loaded(batch)
    first = loaded.model(input_ids=torch.tensor([[2, 3]]), decoder_input_ids=torch.tensor([[0, 4, 5, 6]])).logits[0]
    second = loaded.model(input_ids=torch.tensor([[4, 5, 6]]), decoder_input_ids=torch.tensor([[0, 7]])).logits[0]
    torch.testing.assert_close(rows, torch.cat([first, second]), rtol=1e-4, atol=1e-5)
    found = loaded.rows_labels(batch)
    assert found is not None
    assert found.tolist() == [4, 5, 6, 1, 7, 1]
    assert loaded.rows_labels(Batch(batch.ids, batch.mask)) is None


def test_a_causal_models_labels_are_the_next_tokens(tmp_path: Path) -> None:
    loaded = load_base(save(tiny_peft.gpt2, tmp_path), [], CPU)
    batch = loaded.batch([[5, 6, 7], [4], [3, 2]])
    labels = loaded.rows_labels(batch)
    assert labels is not None
    assert labels.tolist() == [6, 7, NO_LABEL, NO_LABEL, 2, NO_LABEL]
    own = loaded.model(input_ids=batch.ids[:1], labels=batch.ids[:1]).loss
    loss = functional.cross_entropy(loaded(loaded.batch([[5, 6, 7]])), labels[:3])
    assert float(loss) == pytest.approx(float(own), rel=1e-5)


def test_labels_of_texts_and_of_tokens(tmp_path: Path) -> None:
    ids = [[2, 3, 4], [5]]
    texts = load_teacher(save(tiny_peft.bert, tmp_path / "a"), adapter(tiny_peft.bert(), "value"), CPU)
    batch = texts.batch(ids, torch.tensor([2, NO_LABEL]))
    assert torch.equal(texts.rows_labels(batch), torch.tensor([2, NO_LABEL]))  # type: ignore[arg-type]
    assert texts.rows_labels(texts.batch(ids)) is None
    make = tiny_peft.bert_tokens
    tokens = load_teacher(save(make, tmp_path / "b"), adapter(make(), "value"), CPU)
    batch = tokens.batch(ids, torch.tensor([[1, NO_LABEL, 0], [2, NO_LABEL, NO_LABEL]]))
    assert torch.equal(tokens.rows_labels(batch), torch.tensor([1, NO_LABEL, 0, 2]))  # type: ignore[arg-type]
    assert len(tokens(batch)) == 4


@pytest.mark.parametrize(("make", "kind", "end"), ALL)
def test_bare_is_the_teacher_without_its_updates(make: Callable[[], Any], kind: Kind, end: str, tmp_path: Path) -> None:
    base, lora = save(make, tmp_path), adapter(make(), end)
    lora = head(lora) if kind in ("classifier", "tokens") else lora
    bare, teacher = load_bare(base, lora, CPU), load_teacher(base, lora, CPU)
    assert bare.kind == teacher.kind == kind
    for name, module in lora.modules.items():
        change = teacher.layers[name].weight - bare.layers[name].weight
        torch.testing.assert_close(change, bare.layers[name].as_weight(module.delta()), rtol=1e-4, atol=1e-6)
    others = {k: v for k, v in teacher.model.state_dict().items() if not k.removesuffix(".weight").endswith(end)}
    assert all(torch.equal(tensor, bare.model.state_dict()[key]) for key, tensor in others.items())
    assert len(others) < len(teacher.model.state_dict())


def test_bare_has_the_adapters_bias(tmp_path: Path) -> None:
    lora = adapter(tiny_peft.bert(), "value")
    bias = torch.arange(16.0)
    lora = replace(lora, modules={name: replace(m, bias=bias) for name, m in lora.modules.items()})
    loaded = load_bare(save(tiny_peft.bert, tmp_path), lora, CPU)
    for name, module in lora.modules.items():
        own: Tensor = tiny_peft.bert().get_submodule(name).bias
        assert torch.equal(loaded.layers[name].module.bias, own + bias * module.scaling)  # type: ignore[arg-type]


def test_an_update_goes_on_top_of_a_weight_that_the_adapter_replaces(tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.attention.self.value"
    module = LoraFactors(torch.ones(1, 16), torch.ones(16, 1), 0.5)
    extras = {f"base_model.model.{name}.base_layer.weight": torch.full((16, 16), 2.0)}
    loaded = load_teacher(save(tiny_peft.bert, tmp_path), resolved(Adapter({name: module}, extras)), CPU)
    assert torch.equal(loaded.layers[name].weight, torch.full((16, 16), 2.5))


def test_a_classifier_on_a_decoder_reads_the_last_token(tmp_path: Path) -> None:
    def make() -> Any:
        torch.manual_seed(0)
        sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
        return LlamaForSequenceClassification(LlamaConfig(vocab_size=32, pad_token_id=None, num_labels=3, **sizes))

    loaded = load_teacher(save(make, tmp_path), adapter(make(), "v_proj"), CPU)
    rows = loaded(loaded.batch([[4, 5], [2, 3, 6, 7]]))
    torch.testing.assert_close(rows[:1], loaded(loaded.batch([[4, 5]])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "end"), [(tiny_peft.t5, "q"), (tiny_peft.bart, "v_proj")])
def test_calibration_takes_seq2seq_models(make: Callable[[], Any], end: str, tmp_path: Path) -> None:
    base, lora = save(make, tmp_path), adapter(make(), end)
    half = replace(lora, modules={name: replace(m, B=m.B / 2) for name, m in lora.modules.items()})
    found = distance(base, lora, half, TEXTS)
    assert found.kl is not None
    assert found.kl > 0
    assert distance(base, lora, lora, TEXTS).kl == pytest.approx(0.0, abs=1e-9)
    loaded = load_teacher(base, lora, CPU)
    tallies = tally_gradients(loaded, loaded.batches(TEXTS, 16, 256), 0)
    assert all(tally.output_energy > 0 for tally in tallies.values())
    gradients = module_gradients(base, TEXTS, list(lora.modules))
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients.values())
