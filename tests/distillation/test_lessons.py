"""The order of training texts, and what the teacher says to them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptzip.distillation import lessons
from adaptzip.distillation.lessons import Teacher, check_labels, label_count, order, row_count
from adaptzip.distillation.losses import LossWeights
from adaptzip.errors import UsageError
from adaptzip.models.live.batches import Encoded, Example, encode
from adaptzip.models.live.running import Kind
from tests.cases import tiny_peft
from tests.cases.teachers import encoder, guest_of, teacher_of, texts, unlabelled

LENGTHS = [3 + i * i % 17 for i in range(50)]


def test_every_epoch_has_every_text_once_in_another_order() -> None:
    per_epoch = 7  # Six batches of 8, and one of the 2 that are left.
    batches = list(islice(order(LENGTHS, 8, 3), 2 * per_epoch))
    epochs = batches[:per_epoch], batches[per_epoch:]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(50))
        assert sorted(map(len, epoch)) == [2, *[8] * 6]
    assert epochs[0] != epochs[1]
    assert batches == list(islice(order(LENGTHS, 8, 3), 2 * per_epoch))
    assert batches != list(islice(order(LENGTHS, 8, 4), 2 * per_epoch))


def test_texts_of_like_length_come_together() -> None:
    for batch in islice(order(LENGTHS, 8, 0), 7):
        own = sorted(LENGTHS[i] for i in batch)
        between = [length for length in LENGTHS if own[0] < length < own[-1]]
        assert len(between) <= 8


pytestmark = pytest.mark.filterwarnings("ignore:no text to be written is named")

KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[Example, ...]]] = {
    "causal": (tiny_peft.llama, unlabelled(10)),
    "classifier": (tiny_peft.bert, texts(10)),
    "tokens": (
        tiny_peft.bert_tokens,
        tuple(Example(e.text, " ".join("NAME" for _ in e.text.split())) for e in texts(10)),
    ),
    "encoder": (encoder, unlabelled(10)),
    "seq2seq": (tiny_peft.t5, unlabelled(10)),
    "seq2seq with targets": (tiny_peft.t5, tuple(Example(e.text, e.text[::-1][:5]) for e in texts(10))),
}


@pytest.fixture(params=KINDS)
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Teacher:
    make, examples = KINDS[request.param]
    base, adapter = teacher_of(make, tmp_path, "q_proj", "query", ".q")
    guest, factors = guest_of(base, adapter)
    assert guest.loaded.kind == request.param.split()[0]
    return Teacher(guest, factors, encode(guest.loaded, examples, max_tokens=64))


def test_rows_and_labels_are_counted_as_the_model_has_them(teacher: Teacher) -> None:
    indices = [7, 0, 3, 9]
    batch = teacher.batch(indices)
    rows = teacher.answer(indices, batch).rows
    labels = teacher.loaded.rows_labels(batch)
    counts = teacher.counts(indices)
    assert counts.rows == len(rows)
    assert counts.labels == (0 if labels is None else int((labels != -100).sum()))
    kind = teacher.loaded.kind
    assert sum(row_count(kind, teacher.texts[i]) for i in indices) == counts.rows
    assert sum(label_count(kind, teacher.texts[i]) for i in indices) == counts.labels


@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        ("causal", "none of the texts to train on has two tokens", "raise `max_tokens=`, or give longer texts"),
        ("classifier", "none of the texts to train on has a label", "name them with `label_field=`, or drop `labels=`"),
        ("encoder", "an encoder has no use for labels", "drop `labels=`"),
        (
            "seq2seq",
            "none of the texts to train on has a label",
            "name them with `label_field=` or `completion_field=`, or drop `labels=`",
        ),
    ],
)
def test_missing_labels_have_a_hint_that_can_be_followed(kind: Kind, message: str, hint: str) -> None:
    check_labels(kind, [Encoded((2,))], LossWeights(kl=1.0))
    with pytest.raises(UsageError, match=message) as caught:
        check_labels(kind, [Encoded((2,))], LossWeights(labels=1.0))
    assert caught.value.hint == hint


def test_answers_are_kept_text_by_text(teacher: Teacher) -> None:
    indices = [7, 0, 3, 9]
    batch = teacher.batch(indices)
    expected = teacher.answer(indices, batch).rows
    teacher.keep(range(8), 3)
    assert sorted(teacher.kept) == list(range(8))
    torch.testing.assert_close(teacher.answer(indices, batch).rows, expected)
    teacher.keep([9], 3)
    found = teacher.answer(indices, batch)
    assert not found.rows.requires_grad
    torch.testing.assert_close(found.rows, expected, atol=1e-5, rtol=1e-4)
    assert len(teacher.answer(indices, batch, modules=True).modules) == len(teacher.factors)


def test_no_more_is_kept_than_fits(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts count with their own lengths: here the shortest come first."""
    everything = list(range(len(teacher.texts)))
    with torch.no_grad():
        size = teacher.guest(teacher.batch(everything), teacher.factors).nbytes
    monkeypatch.setattr(lessons, "KEPT_BYTES", size - 1)
    teacher.keep(everything, 2)
    assert not teacher.kept
    monkeypatch.setattr(lessons, "KEPT_BYTES", size)
    teacher.keep(everything, 2)
    assert sorted(teacher.kept) == everything
