"""What `evaluate` says of labels is what scikit-learn, scipy and greedy writing make of PEFT's own models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import f1_score, matthews_corrcoef
from tokenizers import processors
from torch import Tensor, nn
from transformers import AutoTokenizer, BertForTokenClassification, LlamaForCausalLM, T5ForConditionalGeneration

import adaptzip
from adaptzip.errors import RefusedError, UsageError
from adaptzip.models.live.batches import Example
from adaptzip.reports.evaluation import NOTHING, TEACHER, Evaluation, Score, evaluate
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, WORDS
from tests.cases.tasks import Task, classifier, llama, trained


def halved(task: Task) -> adaptzip.Adapter:
    adapter = adaptzip.read(task.adapter)
    return replace(adapter, modules={name: replace(m, B=m.B / 2) for name, m in adapter.modules.items()})


@pytest.mark.parametrize("batch", [1, 8])
def test_two_classes(batch: int, tmp_path: Path) -> None:
    task = classifier(tmp_path, 2, initializer_range=0.6)
    live = task.live()
    texts = [" ".join(word) for text in TEXTS for word in (text.split(), text.split()[::-1], text.split()[1:])]
    found = [int(task.logits(text, model=live).argmax()) for text in texts]
    labels = [one if place % 6 else 1 - one for place, one in enumerate(found)]
    examples = [Example(text, label) for text, label in zip(texts, labels, strict=True)]
    told = evaluate(task.base, task.adapter, {"half": halved(task)}, examples, batch=batch, metric="mcc")
    assert len(set(found)) == 2
    expected = {
        "accuracy": float(np.mean([a == b for a, b in zip(labels, found, strict=True)])),
        "F1": f1_score(labels, found),
        "macro F1": f1_score(labels, found, average="macro"),
        "MCC": matthews_corrcoef(labels, found),
    }
    assert told.metrics[TEACHER] == pytest.approx(expected)
    assert (told.metric, told.second, told.rows[TEACHER].metric) == ("MCC", None, told.metrics[TEACHER]["MCC"])
    nothing, own = (told.metrics[name]["MCC"] for name in (NOTHING, "half"))
    assert told.gain("half") == pytest.approx((own - nothing) / (expected["MCC"] - nothing))  # type: ignore[operator]
    assert [(d.name, d.against) for d in told.differences] == [("half", TEACHER)]
    assert told.differences[0].metric is not None
    assert told.differences[0].metric.value == pytest.approx(own - expected["MCC"])
    assert told.as_dict()["rows"][1]["metrics"] == told.metrics[TEACHER]


def token_classifier() -> Any:
    tiny_peft.set_seed(0)
    config = tiny_peft.bert_tokens().config
    config.initializer_range = 0.6
    return BertForTokenClassification(config)


def test_words(tmp_path: Path) -> None:
    config: dict[str, Any] = {"task_type": "TOKEN_CLS", "target_modules": ["query", "value"]}
    task = trained(tmp_path, token_classifier, BertForTokenClassification, seed=2, **config)
    live = task.live()
    found = [task.logits(text, model=live).argmax(1).tolist() for text in TEXTS]
    labels = [[(one + (place + word) % 2) % 3 for word, one in enumerate(row)] for place, row in enumerate(found)]
    examples = [Example(text, tuple(row)) for text, row in zip(TEXTS, labels, strict=True)]
    told = evaluate(task.base, task.adapter, {}, examples, batch=4, metric="macro F1").metrics[TEACHER]
    flat, guessed = sum(labels, []), sum(found, [])
    assert len(set(guessed)) > 1
    assert told["macro F1"] == pytest.approx(f1_score(flat, guessed, average="macro"))
    assert told["MCC"] == pytest.approx(matthews_corrcoef(flat, guessed))
    assert "F1" not in told


def test_scores(tmp_path: Path) -> None:
    task = classifier(tmp_path, 1)
    live = task.live()
    scores = [float(task.logits(text, model=live)) for text in TEXTS]
    examples = [Example(text, 0.1 * len(text)) for text in TEXTS]
    told = evaluate(task.base, task.adapter, {}, examples, metric="correlation")
    expected = pearsonr(scores, [0.1 * len(text) for text in TEXTS]).statistic
    assert told.rows[TEACHER].metric == pytest.approx(expected, rel=1e-4)
    assert told.metrics[TEACHER].keys() == {"squared error", "rank correlation", "correlation"}


def written(model: nn.Module, ids: Sequence[int], length: int) -> list[int]:
    """What a model writes greedily after a prompt, or in answer to a text."""
    with torch.no_grad():
        row: Tensor = model.generate(  # type: ignore[operator]
            input_ids=torch.tensor([ids]), max_new_tokens=length, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return row[0].tolist()[-length:]


def in_words(ids: Sequence[int]) -> str:
    return " ".join(WORDS[index] for index in ids)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_completion_matches_where_greedy_writing_gives_it(batch: int, tmp_path: Path) -> None:
    config: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
    make = llama(vocab_size=len(WORDS), eos_token_id=None)
    task = trained(tmp_path, make, LlamaForCausalLM, **config)
    live, tokeniser = task.live(), AutoTokenizer.from_pretrained(task.base)
    examples, right = [], []
    for place, text in enumerate(TEXTS):
        ids = tokeniser(text)["input_ids"]
        found = written(live, ids, 3)
        wanted = [*found[:2], (found[2] + place % 2) % len(WORDS)]
        examples.append(Example(text, completion=f" {in_words(wanted)}"))
        right.append(wanted == found)
    assert 0 < sum(right) < len(right)
    told = evaluate(task.base, task.adapter, {}, examples, batch=batch, metric="exact-match")
    assert told.metrics[TEACHER]["exact match"] == told.rows[TEACHER].metric == pytest.approx(np.mean(right))
    whole = evaluate(task.base, task.adapter, {}, examples, batch=batch, scored="all")
    assert whole.metrics[TEACHER]["exact match"] == 0.0


def writer() -> Any:
    tiny_peft.set_seed(0)
    config = tiny_peft.t5().config
    config.vocab_size, config.eos_token_id, config.initializer_factor = len(WORDS), 7, 3.0
    return T5ForConditionalGeneration(config)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_target_matches_with_its_end(batch: int, tmp_path: Path) -> None:
    config: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "v"]}
    task = trained(tmp_path, writer, T5ForConditionalGeneration, special={"eos_token": "f"}, **config)
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    tokeniser.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A f", pair="$A $B f", special_tokens=[("f", 7)]
    )
    tokeniser.save_pretrained(task.base)
    live = task.live()
    examples, right = [], []
    for place in range(24):
        ids = [2 + (place + step) % 5 for step in range(1 + place % 4)] + [7]
        found = written(live, ids, 3)
        # The end is one of the tokens that must be the first choice.
        target = [2 + place % 3] if 7 not in found else found[: found.index(7)]
        examples.append(Example(in_words(ids[:-1]), in_words(target)))
        right.append([*target, 7] == found[: len(target) + 1])
    assert 0 < sum(right) < len(right)
    told = evaluate(task.base, task.adapter, {}, examples, batch=batch)
    assert told.metrics[TEACHER]["exact match"] == pytest.approx(np.mean(right))


def test_a_metric_that_can_not_be_told_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = classifier(tmp_path, 2)
    labelled = [Example(text, 1) for text in TEXTS]
    for metric, examples, message in (
        ("luck", labelled, "there is no metric 'luck'"),
        ("loss", labelled, "a model for classifier is not measured by loss"),
        ("MCC", [Example(text) for text in TEXTS], "the data has no labels to tell the MCC by"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(task.base, task.adapter, {}, examples, metric=metric)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(RefusedError, match="need the package scikit-learn"):
        evaluate(task.base, task.adapter, {}, labelled, metric="F1")
    assert evaluate(task.base, task.adapter, {}, labelled).metrics[TEACHER].keys() == {"accuracy"}


@pytest.mark.parametrize(
    ("metric", "nothing", "teacher", "own", "gain"),
    [
        ("accuracy", 0.5, 0.75, 0.625, 0.5),
        ("accuracy", 0.75, 0.5, 0.625, None),
        ("accuracy", 0.5, 0.5, 0.5, None),
        ("accuracy", 0.5, 0.75, None, None),
        ("loss", 3.0, 2.0, 2.5, 0.5),
        ("loss", 2.0, 3.0, 2.5, None),
        ("loss", 3.0, 2.0, 3.5, -0.5),
        ("squared error", 4.0, 2.0, 3.0, 0.5),
        ("squared error", 2.0, 4.0, 3.0, None),
        (None, 0.5, 0.75, 0.625, None),
    ],
)
def test_a_gain_is_told_where_the_teacher_is_better_than_nothing(
    metric: str | None, nothing: float, teacher: float, own: float | None, gain: float | None
) -> None:
    values = {NOTHING: nothing, TEACHER: teacher, "own": own}
    rows = {name: Score(0.0, 1.0, None, value, 5) for name, value in values.items()}
    found = Evaluation("classifier", metric, rows, dict.fromkeys(rows), 5)
    assert found.gain("own") == gain
    if gain is not None:
        assert str(found.gain(NOTHING)) == "0.0", "not -0.0"
