"""Every task is measured as PEFT's own model has it, text by text, at any batch size."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import f1_score
from tokenizers import processors
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
)

import adaptzip
from adaptzip.distillation.distilling import distill
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.preparing import DataOptions
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import AdaptzipWarning, BaseModelError, RefusedError, UsageError
from adaptzip.models.live.batches import Example, hold_out
from adaptzip.models.live.running import Loading, load_teacher
from adaptzip.reports.evaluation import NOTHING, TEACHER, Evaluation, evaluate
from tests.cases.models_on_disk import TEXTS
from tests.cases.tasks import Task, classifier, decoding_classifier, distilbert, language, trained

CPU = torch.device("cpu")
PLAIN = tuple(Example(text) for text in TEXTS)
OLD = "ensure_weight_tying|tie_word_embeddings"


def measured(task: Task, examples: Sequence[Example], batch: int = 4, **options: object) -> Evaluation:
    """`evaluate` of the adapter, with the half of it as a student."""
    half = adaptzip.read(task.adapter)
    half = replace(half, modules={name: replace(m, B=m.B / 2) for name, m in half.modules.items()})
    return evaluate(task.base, task.adapter, {"half": half}, examples, batch=batch, **options)  # type: ignore[arg-type]


def loss(task: Task, model: nn.Module, texts: Sequence[str] = TEXTS) -> float:
    """Mean over tokens."""
    rows = [
        (task.logits(text, model=model), AutoTokenizer.from_pretrained(task.base)(text)["input_ids"]) for text in texts
    ]
    summed = sum(functional.cross_entropy(r[:-1], torch.tensor(ids[1:]), reduction="sum") for r, ids in rows)
    return float(summed) / sum(len(ids) - 1 for _, ids in rows)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("outputs", [1, 2])
def test_scores_are_compared_by_their_error_and_their_order(outputs: int, batch: int, tmp_path: Path) -> None:
    task = classifier(tmp_path, outputs, "regression" if outputs > 1 else None)
    live = task.live()
    scores = torch.stack([task.logits(text, model=live) for text in TEXTS])
    targets = [[0.5 * place - out for out in range(outputs)] for place in range(len(TEXTS))]
    labels = [row[0] if outputs == 1 else tuple(row) for row in targets]
    examples = [Example(text, label) for text, label in zip(TEXTS, labels, strict=True)]
    found = measured(task, examples, batch)
    assert (found.kind, found.metric, found.second) == ("scores", "squared error", "rank correlation")
    # "No adapter" keeps the trained head.
    loaded = load_teacher(task.base, replace(adaptzip.read(task.adapter), modules={}), CPU)
    with torch.no_grad():
        bare = torch.cat([loaded(loaded.batches([text], 1, 9)[0]) for text in TEXTS]).double()
    row = found.rows[NOTHING]
    assert (row.kl, row.agreement, row.cosine) == (None, None, None)
    assert row.squared_error == row.distance == pytest.approx(float((bare - scores).square().mean()), rel=1e-4)
    expected = sum(float(spearmanr(a, b)[0]) for a, b in zip(bare.T, scores.T, strict=True)) / outputs
    assert row.rank_correlation == pytest.approx(expected)
    assert found.rows[TEACHER].metric == pytest.approx(
        float((scores - torch.tensor(targets)).square().mean()), rel=1e-5
    )
    order = sum(float(spearmanr(a, b)[0]) for a, b in zip(scores.T, torch.tensor(targets).T, strict=True)) / outputs
    assert found.rows[TEACHER].second == pytest.approx(order)


@pytest.mark.parametrize("batch", [1, 8])
def test_several_labels_have_a_decision_each(batch: int, tmp_path: Path) -> None:
    task = classifier(tmp_path, 3, "multi_label_classification")
    live = task.live()
    rows = torch.stack([task.logits(text, model=live) for text in TEXTS])
    hot = [(1, 0, 1), (0, 0, 0), (1, 1, 1), (0, 1, 0), (1, 0, 0), (0, 0, 1)]
    examples = [Example(text, label) for text, label in zip(TEXTS, hot, strict=True)]
    found = measured(task, examples, batch)
    assert (found.kind, found.metric, found.second) == ("multilabel", "F1", "macro F1")
    chosen = (rows > 0).int().numpy()
    assert found.rows[TEACHER].metric == pytest.approx(f1_score(hot, chosen, average="micro", zero_division=0))
    assert found.rows[TEACHER].second == pytest.approx(f1_score(hot, chosen, average="macro", zero_division=0))
    loaded = load_teacher(task.base, replace(adaptzip.read(task.adapter), modules={}), CPU)
    with torch.no_grad():
        bare = torch.cat([loaded(loaded.batches([text], 1, 9)[0]) for text in TEXTS]).double()
    p, q = rows.sigmoid(), bare.sigmoid()
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1).mean()
    assert found.rows[NOTHING].kl == pytest.approx(float(kl), rel=1e-4)
    assert found.rows[NOTHING].agreement == pytest.approx(float(((rows > 0) == (bare > 0)).double().mean()))
    # The same labels by name, on a base that says nothing of several.
    plain = classifier(tmp_path / "unsaid", 3)
    names = [tuple(f"LABEL_{place}" for place in range(3) if row[place]) for row in hot]
    by_name = measured(plain, [Example(text, label) for text, label in zip(TEXTS, names, strict=True)], batch)
    assert by_name.kind == "multilabel"
    assert by_name.rows[TEACHER].metric == pytest.approx(found.rows[TEACHER].metric)


def test_one_class_that_may_be_there(tmp_path: Path) -> None:
    task = classifier(tmp_path, 1, "multi_label_classification")
    assert measured(task, PLAIN).kind == "multilabel"
    assert measured(task, PLAIN, kind="scores").kind == "scores"


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("pad", [None, "f"])
def test_a_decoders_padding_is_the_tokenisers(pad: str | None, batch: int, tmp_path: Path) -> None:
    config: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "v_proj"]}
    task = trained(tmp_path, decoding_classifier, LlamaForSequenceClassification, **config)
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    tokeniser.pad_token = pad
    tokeniser.save_pretrained(task.base)
    # Token 0 is one of the texts' own.
    texts = [text.replace("a", "<pad>") for text in TEXTS if not text.endswith("f")]
    assert any(text.endswith("<pad>") for text in texts)
    live = task.live()
    logits = torch.stack([task.logits(text, model=live) for text in texts])
    examples = [Example(text, int(row.argmax())) for text, row in zip(texts, logits, strict=True)]
    loaded = load_teacher(task.base, adaptzip.read(task.adapter), CPU)
    assert loaded.pad == (7 if pad else None)
    assert measured(task, examples, batch).rows[TEACHER].metric == 1.0
    with torch.no_grad():
        rows = torch.cat([loaded(part) for part in loaded.batches(texts, batch, 9)]).double()
    ordered = torch.stack([logits[i] for i in sorted(range(len(texts)), key=lambda i: len(texts[i].split()))])
    torch.testing.assert_close(rows, ordered, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 8])
def test_pairs_are_read_with_their_token_types(batch: int, tmp_path: Path) -> None:
    task = classifier(tmp_path, 3)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokeniser = AutoTokenizer.from_pretrained(task.base, model_input_names=names)
    tokeniser.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A <s> $B:1", special_tokens=[("<s>", 1)]
    )
    tokeniser.save_pretrained(task.base)
    live, pairs = task.live(), list(zip(TEXTS, TEXTS[::-1], strict=True))
    logits = torch.stack([task.logits(a, b, model=live) for a, b in pairs])
    alone = torch.stack([task.logits(a, model=live) for a, _ in pairs])
    assert not torch.equal(logits.argmax(1), alone.argmax(1)) or float((logits - alone).abs().max()) > 1e-2
    examples = [Example(a, int(row.argmax()), pair=b) for (a, b), row in zip(pairs, logits, strict=True)]
    assert measured(task, examples, batch).rows[TEACHER].metric == 1.0
    loaded = load_teacher(task.base, adaptzip.read(task.adapter), CPU)
    with torch.no_grad():
        rows = torch.cat([loaded(loaded.batches([example], 1, 32)[0]) for example in examples]).double()
    torch.testing.assert_close(rows, logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="a model for causal reads no pairs"):
        measured(language(tmp_path / "b"), [Example("a", pair="b")])


def completion_loss(task: Task, model: nn.Module, rows: Sequence[tuple[str, str]]) -> float:
    total = 0.0
    count = 0
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    for prompt, completion in rows:
        ids, before = tokeniser(prompt + completion)["input_ids"], len(tokeniser(prompt)["input_ids"])
        logits = task.logits(prompt + completion, model=model)
        total += float(functional.cross_entropy(logits[before - 1 : -1], torch.tensor(ids[before:]), reduction="sum"))
        count += len(ids) - before
    return total / count


@pytest.mark.parametrize("batch", [1, 8])
def test_completions_are_scored_alone(batch: int, tmp_path: Path) -> None:
    task = language(tmp_path)
    rows = [(text, f" {other}"[:4]) for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    examples = [Example(prompt, completion=completion) for prompt, completion in rows]
    found = measured(task, examples, batch)
    assert found.samples == sum(len(completion.split()) for _, completion in rows)
    assert found.rows[TEACHER].metric == pytest.approx(completion_loss(task, task.live(), rows), rel=1e-5)
    whole = measured(task, examples, batch, scored="all")
    assert whole.rows[TEACHER].metric == pytest.approx(
        loss(task, task.live(), ["".join(row) for row in rows]), rel=1e-5
    )
    with pytest.raises(UsageError, match="there is no completion to score"):
        measured(task, PLAIN, scored="completion")
    with pytest.raises(UsageError, match="scores no completions"):
        measured(classifier(tmp_path / "b", 3), PLAIN, scored="completion")


def test_messages_are_put_together_by_the_chat_template(tmp_path: Path) -> None:
    task = language(tmp_path)
    chat = tuple({"role": role, "content": text} for role, text in (("user", "a b c"), ("assistant", "d e")))
    examples = [Example("a b c", messages=chat, prompt=1)]
    with pytest.raises(RefusedError, match="the tokeniser has no chat template"):
        measured(task, examples)
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    tokeniser.chat_template = (
        "{% for m in messages %}{{ '<s> ' if m.role == 'user' else 'f ' }}{{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}f {% endif %}"
    )
    tokeniser.save_pretrained(task.base)
    found = measured(task, examples)
    assert found.samples == 2
    expected = completion_loss(task, task.live(), [("<s> a b c f", " d e")])
    assert found.rows[TEACHER].metric == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
@pytest.mark.filterwarnings(f"ignore:.*({OLD})")
def test_a_saved_module_is_no_longer_tied(module: str, tmp_path: Path) -> None:
    task = language(tmp_path, tied=True, modules_to_save=[module])
    assert measured(task, PLAIN).rows[TEACHER].metric == pytest.approx(loss(task, task.live()), rel=1e-5)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
@pytest.mark.filterwarnings(f"ignore:.*({OLD})")
def test_an_update_of_a_tied_weight_counts_where_it_is(module: str, tmp_path: Path) -> None:
    task = language(tmp_path, tied=True, target_modules=["q_proj", module])
    with pytest.warns(AdaptzipWarning, match=f"{module} shares its weight with .* merged model it counts in both"):
        live = measured(task, PLAIN).rows[TEACHER].metric
    assert live == pytest.approx(loss(task, task.live()), rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdaptzipWarning)
        merged = measured(task, PLAIN, merged=True).rows[TEACHER].metric
    assert merged == pytest.approx(loss(task, task.live(merged=True)), rel=1e-5)
    assert merged != pytest.approx(live, rel=1e-2)


def test_the_adapters_own_tokeniser_is_used(tmp_path: Path) -> None:
    task = language(tmp_path)
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    tokeniser.add_tokens(["new"])
    tokeniser.save_pretrained(task.adapter)
    examples = [Example(f"new {text} new") for text in TEXTS]
    own = measured(task, examples).rows[TEACHER].metric
    ids = [tokeniser(example.text, return_tensors="pt")["input_ids"] for example in examples]
    live = task.live()
    with torch.no_grad():
        losses = [float(live(input_ids=row, labels=row).loss) * (row.shape[1] - 1) for row in ids]
    assert own == pytest.approx(sum(losses) / sum(row.shape[1] - 1 for row in ids), rel=1e-5)
    assert own != measured(task, examples, tokeniser=task.base).rows[TEACHER].metric


def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    task = language(tmp_path)
    model = task.loads.from_pretrained(task.base)
    model.model.layers[1].mlp.down_proj.weight.data[3, 4] = torch.nan
    model.save_pretrained(task.base)
    with pytest.raises(RefusedError) as caught:
        measured(task, PLAIN)
    assert str(caught.value) == (
        "the teacher: the outputs for the text 'e a' are not finite, first in layer model.layers.1.mlp.down_proj"
    )
    adapter = adaptzip.read(task.adapter)
    broken = replace(adapter, modules={name: replace(m, B=m.B * torch.inf) for name, m in adapter.modules.items()})
    sound = language(tmp_path / "sound")
    with pytest.raises(RefusedError, match="^broken: the outputs for the text 'e a' are not finite"):
        evaluate(sound.base, sound.adapter, {"broken": broken}, PLAIN)


def test_tokens_that_the_model_does_not_know_are_named(tmp_path: Path) -> None:
    task = language(tmp_path)
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    tokeniser.add_tokens([f"<{i}>" for i in range(30)])
    tokeniser.save_pretrained(task.base)
    with pytest.raises(
        BaseModelError, match="the text 'b <29> c' has the token '<29>', which is number 37; the model has"
    ):
        measured(task, [Example("a b"), Example("b <29> c")])


@pytest.mark.parametrize("safe", [True, False])
def test_a_head_is_told_by_its_whole_name(safe: bool, tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "task_type": "SEQ_CLS",
        "target_modules": ["q_lin"],
        "modules_to_save": ["pre_classifier", "classifier"],
    }
    task = trained(tmp_path, distilbert, AutoModelForSequenceClassification, scale=0.7, safe=safe, **config)
    live = task.live(options={"num_labels": 3})
    examples = [Example(text, int(task.logits(text, model=live).argmax())) for text in TEXTS]
    assert measured(task, examples).rows[TEACHER].metric == 1.0


def trained_shortly(task: Task, examples: Sequence[Example], out: Path, **options: object) -> None:
    """Distil, and find what the report says when the file is evaluated; the student is better than its fit."""
    given: dict[str, Any] = {"schedule": Schedule(steps=12, batch=4, every=4), "device": "cpu", **options}
    data_options = DataOptions(held_out=0.4)
    made = distill(
        teacher=task.adapter,
        base=task.base,
        data=examples,
        budget="60%",
        output=out,
        data_options=data_options,
        **given,
    )
    again = evaluate(task.base, task.adapter, {"file": out}, hold_out(examples, 0.4, 0)[1], whole=examples).rows["file"]
    told = made.rows["distilled"]
    assert again.distance == pytest.approx(told.distance, rel=1e-3, abs=1e-6)
    assert again.metric == pytest.approx(told.metric, rel=1e-3, abs=1e-6)
    assert told.distance is not None
    assert 0 < told.distance <= (made.rows["fitted"].distance or 0.0)


@pytest.mark.parametrize("case", ["scores", "multilabel", "pairs", "completions", "tied"])
@pytest.mark.filterwarnings(f"ignore:.*({OLD}|shares its weight)")
def test_each_is_distilled_as_it_is_measured(case: str, tmp_path: Path) -> None:
    if case == "scores":
        trained_shortly(classifier(tmp_path, 1), [Example(t, 0.5 * len(t)) for t in TEXTS], tmp_path / "x.adz")
    elif case == "multilabel":
        examples = [Example(t, ("LABEL_0", "LABEL_2")[: len(t.split()) % 3]) for t in TEXTS]
        trained_shortly(classifier(tmp_path, 3), examples, tmp_path / "x.adz")
    elif case == "pairs":
        trained_shortly(classifier(tmp_path, 3), [Example(t, 1, pair=t[::-1]) for t in TEXTS], tmp_path / "x.adz")
    elif case == "completions":
        trained_shortly(language(tmp_path), [Example(t, completion=" c b a") for t in TEXTS], tmp_path / "x.adz")
    else:
        task = language(tmp_path, tied=True, target_modules=["q_proj", "v_proj", "embed_tokens"])
        trained_shortly(task, PLAIN, tmp_path / "x.adz")


def test_a_loss_that_would_always_be_zero_is_refused(tmp_path: Path) -> None:
    task = classifier(tmp_path, 3)
    weights = Schedule(steps=2, batch=4, weights=LossWeights(kl=0.0, labels=1.0))
    with pytest.raises(UsageError, match="the labels have a weight in the loss, but none of the texts to train on has"):
        distill(teacher=task.adapter, base=task.base, data=PLAIN, budget="60%", schedule=weights, device="cpu")


def test_what_a_loaded_model_is_said_to_be(tmp_path: Path) -> None:
    task = classifier(tmp_path, 3, "multi_label_classification")
    adapter = adaptzip.read(task.adapter)
    assert load_teacher(task.base, adapter, CPU).kind == "multilabel"
    assert load_teacher(task.base, adapter, CPU, loading=Loading("classifier")).kind == "classifier"
