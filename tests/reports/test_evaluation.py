"""Adapters beside their teacher: the numbers are those of PEFT's own models, one text at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertModel

import adaptzip
from adaptzip.core.adapter import Adapter
from adaptzip.errors import BaseModelError, CheckFailedError, CheckpointError, RefusedError, UsageError
from adaptzip.models.live.batches import Example, batches, encode, read_examples
from adaptzip.models.live.rows import compare_rows, losses
from adaptzip.models.live.running import Batch, load_bare, load_teacher
from adaptzip.reports import evaluation
from adaptzip.reports.evaluation import NOTHING, TEACHER, Evaluation, Score, evaluate, outputs, score, teacher_outputs
from tests.cases import tiny_peft
from tests.cases.evaluation_cases import LABELS, causal, classifier, ids_of, logits_by_peft, weakened, write_rows
from tests.cases.models_on_disk import TEXTS, adapter, save

CPU = torch.device("cpu")
UNLABELLED = tuple(Example(text) for text in TEXTS)
LABELLED = tuple(Example(text, str(label)) for text, label in zip(TEXTS, LABELS, strict=True))


def kl(teacher: Tensor, student: Tensor) -> float:
    """Mean over rows, from the definition."""
    p, q = teacher.softmax(1), student.softmax(1)
    return float((p * (p / q).log()).sum(1).mean())


def test_a_classifier_is_scored_as_peft_has_it(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path)
    half, nothing = weakened(teacher, 0.5), weakened(teacher, 0.0)
    found = evaluate(base, teacher, {"half": half}, LABELLED, batch=4)
    assert (found.kind, found.metric, found.samples) == ("classifier", "accuracy", len(TEXTS))
    assert list(found.rows) == [NOTHING, TEACHER, "half"]
    expected = torch.stack(logits_by_peft(tiny_peft.bert, teacher))
    accuracies = {}
    for name, path in {NOTHING: nothing, TEACHER: teacher, "half": half}.items():
        logits = torch.stack(logits_by_peft(tiny_peft.bert, path))
        right = [int(row.argmax()) == label for row, label in zip(logits, LABELS, strict=True)]
        same = [int(a.argmax()) == int(b.argmax()) for a, b in zip(logits, expected, strict=True)]
        row = found.rows[name]
        accuracies[name] = sum(right) / len(right)
        assert row.kl == pytest.approx(kl(expected, logits), rel=1e-4, abs=1e-9)
        assert row.agreement == pytest.approx(sum(same) / len(same))
        assert row.metric == pytest.approx(accuracies[name])
        assert row.cosine is None
    assert (found.rows[TEACHER].kl, found.rows[TEACHER].agreement) == (0.0, 1.0)
    assert accuracies[NOTHING] != accuracies[TEACHER]
    gain = (accuracies["half"] - accuracies[NOTHING]) / (accuracies[TEACHER] - accuracies[NOTHING])
    assert found.gain("half") == pytest.approx(gain)


def test_a_language_model_is_scored_by_its_next_tokens(tmp_path: Path) -> None:
    base, teacher = causal(tmp_path)
    half = weakened(teacher, 0.5)
    found = evaluate(base, teacher, {"half": half}, UNLABELLED, batch=4)
    assert (found.kind, found.metric) == ("causal", "loss")
    assert found.samples == sum(len(text.split()) for text in TEXTS)
    losses = {}
    for name, path in {NOTHING: weakened(teacher, 0.0), TEACHER: teacher, "half": half}.items():
        logits = logits_by_peft(tiny_peft.llama, path)
        summed = [
            functional.cross_entropy(rows[:-1], ids_of(text)[0, 1:], reduction="sum")
            for rows, text in zip(logits, TEXTS, strict=True)
        ]
        losses[name] = float(sum(summed)) / sum(len(text.split()) - 1 for text in TEXTS)
        assert found.rows[name].metric == pytest.approx(losses[name], rel=1e-5)
    distance = kl(torch.cat(logits_by_peft(tiny_peft.llama, teacher)), torch.cat(logits_by_peft(tiny_peft.llama, half)))
    assert found.rows["half"].kl == pytest.approx(distance, rel=1e-4)
    gain = (losses["half"] - losses[NOTHING]) / (losses[TEACHER] - losses[NOTHING])
    assert found.gain("half") == pytest.approx(gain, rel=1e-3)


def test_labels_of_words(tmp_path: Path) -> None:
    base = save(tiny_peft.bert_tokens, tmp_path / "base-model")
    config = {"task_type": "TOKEN_CLS", "r": 3, "lora_alpha": 6, "target_modules": ["query", "value"]}
    tiny_peft.train(tiny_peft.bert_tokens(), tmp_path / "my-adapter", **config)
    names = ("O", "NAME", "PLACE")
    labels = [[(place + len(text)) % 3 for place in range(len(text.split()))] for text in TEXTS]
    examples = [Example(t, " ".join(names[c] for c in row)) for t, row in zip(TEXTS, labels, strict=True)]
    found = evaluate(base, tmp_path / "my-adapter", {}, examples, batch=4)
    logits = torch.cat(logits_by_peft(tiny_peft.bert_tokens, tmp_path / "my-adapter"))
    right = logits.argmax(1) == torch.tensor(sum(labels, []))
    assert (found.kind, found.metric, found.samples) == ("tokens", "accuracy", len(logits))
    assert found.rows[TEACHER].metric == pytest.approx(float(right.double().mean()))
    bare = torch.cat(logits_by_peft(tiny_peft.bert_tokens, weakened(tmp_path / "my-adapter", 0.0)))
    assert found.rows[NOTHING].kl == pytest.approx(kl(logits, bare), rel=1e-4)


def test_target_texts(tmp_path: Path) -> None:
    base = save(tiny_peft.t5, tmp_path)
    teacher = adapter(tiny_peft.t5(), ".q", ".v")
    examples = [Example(text, text[::-1]) for text in TEXTS]
    found = evaluate(base, teacher, {}, examples, batch=4, kind="seq2seq")
    model = load_bare(base, teacher, CPU, "seq2seq").model
    loss = tokens = 0.0
    with torch.no_grad():
        for text in TEXTS:
            targets = ids_of(text[::-1])
            loss += float(model(input_ids=ids_of(text), labels=targets).loss) * targets.numel()
            tokens += targets.numel()
    assert (found.kind, found.metric, found.samples) == ("seq2seq", "loss", tokens)
    assert found.rows[NOTHING].metric == pytest.approx(loss / tokens, rel=1e-5)
    assert found.rows[TEACHER].metric != pytest.approx(loss / tokens, rel=1e-3)


def test_an_encoder_has_the_angle_alone(tmp_path: Path) -> None:
    config = tiny_peft.bert().config
    base = save(lambda: BertModel(config), tmp_path)
    teacher = adapter(BertModel(config), "value")
    found = evaluate(base, teacher, {"none": None}, UNLABELLED)
    embeddings = []
    for loaded in (load_teacher(base, teacher, CPU), load_bare(base, teacher, CPU)):
        with torch.no_grad():
            states = [loaded.model(input_ids=ids_of(text)).last_hidden_state[0].mean(0) for text in TEXTS]
        embeddings.append(torch.stack(states).double())
    first, second = embeddings
    away = 1 - functional.cosine_similarity(first, second)
    assert found.rows["none"].cosine == pytest.approx(float(away.mean()), rel=1e-4)
    assert found.rows["none"] == found.rows[NOTHING]
    assert (found.metric, found.rows["none"].kl, found.rows["none"].agreement) == (None, None, None)
    assert found.gain("none") is None


def test_without_labels_there_is_no_accuracy_and_rows_without_a_label_do_not_count(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path)
    bare = evaluate(base, teacher, {}, UNLABELLED)
    assert (bare.metric, bare.rows[TEACHER].metric, bare.gain(TEACHER)) == (None, None, None)
    some = evaluate(base, teacher, {}, (*LABELLED[:2], *UNLABELLED[2:]))
    logits = logits_by_peft(tiny_peft.bert, teacher)
    right = sum(int(logits[i].argmax()) == LABELS[i] for i in range(2))
    assert some.rows[TEACHER].metric == right / 2
    assert some.rows[TEACHER].samples == len(TEXTS)


def test_a_student_without_a_head_has_the_teachers(tmp_path: Path) -> None:
    base, path = classifier(tmp_path)
    teacher = adaptzip.read(path)
    bare = Adapter(teacher.modules)
    found = evaluate(base, teacher, {"bare": bare, "none": None}, LABELLED)
    assert found.rows["bare"] == found.rows[TEACHER]
    assert found.rows["none"] == found.rows[NOTHING]
    assert found.bytes == dict.fromkeys(found.rows)


def test_a_head_of_the_students_own_counts(tmp_path: Path) -> None:
    base, path = classifier(tmp_path)
    teacher = adaptzip.read(path)
    turned = replace(teacher, extras={key: -tensor for key, tensor in teacher.extras.items()})
    rows = evaluate(base, teacher, {"turned": turned}, LABELLED).rows
    assert rows["turned"].kl != rows[TEACHER].kl


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path)
    packed = tmp_path / "packed.adz"
    adaptzip.compress(teacher, packed, max_error=0.3)
    found = evaluate(base, teacher, {"packed": packed}, UNLABELLED)
    assert found.bytes[NOTHING] is None
    assert found.bytes[TEACHER] == (teacher / "adapter_model.safetensors").stat().st_size
    assert found.bytes["packed"] == packed.stat().st_size
    factors = adaptzip.read(teacher)
    assert found.sizes[TEACHER].update_bytes == 4 * factors.parameters
    assert found.sizes["packed"].method == "svd"
    assert (
        0 < found.sizes["packed"].update_bytes < packed.stat().st_size - sum(t.nbytes for t in factors.extras.values())
    )
    assert found.as_dict()["rows"][2]["bytes"] == packed.stat().st_size


def test_large_outputs_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, teacher = causal(tmp_path)
    half = weakened(teacher, 0.5)
    kept = evaluate(base, teacher, {"half": half}, UNLABELLED, batch=2)
    again: list[int] = []

    def stingy(model: object, batches: object) -> object:
        again.append(1)
        return teacher_outputs(model, batches, keep=0)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "teacher_outputs", stingy)
    assert evaluate(base, teacher, {"half": half}, UNLABELLED, batch=2) == kept
    assert again


def test_outputs_may_be_trained_against(tmp_path: Path) -> None:
    base, teacher = causal(tmp_path)
    loaded = load_teacher(base, adaptzip.read(teacher), CPU)
    parts = batches(loaded, encode(loaded, UNLABELLED, max_tokens=8), 2)
    expected = outputs(loaded, parts)
    assert not expected[0].requires_grad
    factor = torch.ones((), requires_grad=True)
    torch.autograd.backward((factor * expected[0]).sum())
    assert float(factor.grad) == pytest.approx(float(expected[0].sum()))  # type: ignore[arg-type]
    lazy = teacher_outputs(loaded, parts, keep=0)
    assert len(lazy) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(lazy[1:], expected[1:], strict=True))


def test_any_callable_can_be_scored(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path)
    loaded = load_teacher(base, adaptzip.read(teacher), CPU)
    parts = batches(loaded, encode(loaded, LABELLED, max_tokens=8), 3)

    def always_right(batch: Batch) -> Tensor:
        assert batch.labels is not None
        return functional.one_hot(batch.labels, 3).float()

    found = score(loaded, always_right, parts, outputs(loaded, parts))
    assert found.metric == 1.0
    with pytest.raises(BaseModelError, match="puts out 2 numbers a sample, the teacher 3"):
        score(loaded, lambda batch: loaded(batch)[:, :2], parts, outputs(loaded, parts))


def test_many_rows_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(50, 7, generator=generator) for _ in range(2))
    labels = torch.arange(50) % 7
    labels[::3] = -100

    def sums() -> list[float]:
        return [float(rows.sum()) for rows in (*compare_rows("classifier", a, b), losses(a, labels))]

    whole = sums()
    monkeypatch.setattr("adaptzip.models.live.rows._AT_ONCE", 21)
    assert sums() == pytest.approx(whole)
    assert whole[0] == pytest.approx(50 * kl(a.double(), b.double()))
    assert whole[2] == pytest.approx(float(functional.cross_entropy(a, labels, reduction="sum")), rel=1e-5)


@pytest.mark.parametrize(("nothing", "teacher"), [(0.5, 0.5), (None, None)])
def test_no_gain_where_nothing_is_gained(nothing: float | None, teacher: float | None) -> None:
    rows = {name: Score(0.0, 1.0, None, metric, 5) for name, metric in ((NOTHING, nothing), (TEACHER, teacher))}
    found = Evaluation("classifier", "accuracy", rows, dict.fromkeys(rows), 5)
    assert found.gain(TEACHER) is None


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    base, path = classifier(tmp_path)
    teacher = adaptzip.read(path)
    module = next(iter(teacher.modules.values()))
    stranger = Adapter({"model.layers.7.q_proj": module}, teacher.extras, teacher.meta)
    with pytest.raises(BaseModelError, match=r"^stranger: .*no model.layers.7.q_proj"):
        evaluate(base, teacher, {"stranger": stranger}, UNLABELLED)
    wider = {key: torch.cat([tensor, tensor]) for key, tensor in teacher.extras.items()}
    with pytest.raises(BaseModelError, match="^six: puts out 6 numbers a sample, the teacher 3"):
        evaluate(base, teacher, {"six": replace(teacher, extras=wider)}, UNLABELLED)
    with pytest.raises(UsageError, match="'teacher' is the name of a row"):
        evaluate(base, teacher, {TEACHER: teacher}, UNLABELLED)
    with pytest.raises(RefusedError, match="trained head of a classifier, for which `kind='causal'` has no place"):
        evaluate(base, teacher, {}, UNLABELLED, kind="causal")
    with pytest.raises(CheckFailedError, match="none of the texts has a token"):
        evaluate(base, teacher, {}, (Example(""),))
    with pytest.raises(CheckpointError, match="'spam'"):
        evaluate(base, teacher, {}, (Example("a b", "spam"),))


def test_progress_goes_row_by_row(tmp_path: Path) -> None:
    base, teacher = causal(tmp_path)
    said: list[tuple[str, float]] = []
    examples = read_examples(write_rows(tmp_path / "rows.jsonl"))
    evaluate(base, teacher, {"x": None}, examples, progress=lambda name, done, total: said.append((name, done / total)))
    assert [name for name, _ in said] == [TEACHER, NOTHING, "x"]
    assert said[0][1] == 0 < said[1][1] < said[2][1] < 1
