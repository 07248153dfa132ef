"""What training begins with: the texts that count, and what is refused before the first step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from adaptzip.core.budget import Budget
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.preparing import SELF, DataOptions, Setup, prepare
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import AdaptzipWarning, CheckpointError, RefusedError, UsageError
from adaptzip.fitting.requests import Request
from adaptzip.models.live.batches import Example, hold_out
from adaptzip.models.live.running import Kind
from adaptzip.reports.evaluation import TEACHER, evaluate
from tests.cases import tiny_peft
from tests.cases.plugging import installed
from tests.cases.tasks import Task, classifier, language
from tests.cases.teachers import teacher_of
from tests.reports.test_tasks import PLAIN


def prepared(
    task: Task, data: str | Sequence[Example | str], weights: LossWeights | None = None, **options: Any
) -> Setup:
    return prepare(
        None,
        teacher=task.adapter,
        base=task.base,
        data=data,
        request=Request(budget=Budget.parse("6kB"), device="cpu", base=task.base),
        schedule=Schedule(steps=2, batch=4, weights=weights or LossWeights()),
        options=DataOptions(**{"held_out": 0.4, **options}),
    )


@pytest.mark.parametrize("weights", [LossWeights(0.0, hidden=1.0), LossWeights(1.0, hidden=1.0)])
def test_a_loss_that_the_adapter_does_not_reach(weights: LossWeights, tmp_path: Path) -> None:
    task = language(tmp_path, target_modules=["lm_head"])
    if weights.kl:
        assert prepared(task, PLAIN, weights).texts
        return
    with pytest.raises(
        RefusedError, match="the loss, as it is weighted, is the same .* there is nothing to learn"
    ) as caught:
        prepared(task, PLAIN, weights)
    assert "`kl=" in str(caught.value.hint)


def test_texts_that_are_left_out_are_not_counted(tmp_path: Path) -> None:
    task = language(tmp_path)
    near = [Example(f"a {letter}", completion=" c d") for letter in "abcdef"]
    far = [Example(f"a b c d e f {letter}", completion=" c") for letter in "abcdef"]
    split = hold_out([*near, *far], 0.4, 0)
    with pytest.warns(AdaptzipWarning, match="have no token that counts within 6"):
        setup = prepared(task, [*near, *far], max_tokens=6)
    assert (setup.texts, setup.held_out) == tuple(sum(e in near for e in part) for part in split)
    assert setup.texts + setup.held_out == len(near)


def test_texts_held_out_are_not_packed(tmp_path: Path) -> None:
    task = language(tmp_path)
    packed = prepared(task, PLAIN, packed=True, max_tokens=8)
    train, held = hold_out(PLAIN, 0.4, 0)
    assert packed.held_out == len(held)
    assert packed.texts == len(packed.problem.teacher.texts) < len(train)
    again = evaluate(task.base, task.adapter, {}, held, max_tokens=8, device="cpu")
    assert packed.rows["teacher"].samples == again.rows[TEACHER].samples
    assert packed.rows["teacher"].metric == pytest.approx(again.rows[TEACHER].metric, rel=1e-5)


@pytest.mark.parametrize("field", ["text_field", "pair_field", "completion_field", "label_field"])
def test_fields_are_of_files(field: str, tmp_path: Path) -> None:
    task = language(tmp_path)
    option = f"`{field}=`"
    for data in (SELF, PLAIN):
        with pytest.raises(UsageError, match=f"{option} was given as 'x', and no file of texts") as caught:
            prepared(task, data, None, **{field: "x"})
        assert str(caught.value.hint).startswith(f"drop {option}")


def test_plain_strings_are_trained_on_and_evaluated(tmp_path: Path) -> None:
    task = language(tmp_path)
    texts = [example.text for example in PLAIN]
    assert prepared(task, texts).rows == prepared(task, PLAIN).rows
    rows = [evaluate(task.base, task.adapter, {}, some, device="cpu").rows for some in (texts, PLAIN)]
    assert rows[0] == rows[1]
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"text": "a b"}))
    with pytest.raises(UsageError, match="found a path") as caught:
        evaluate(task.base, task.adapter, {}, file)  # type: ignore[arg-type]
    assert "read_examples" in str(caught.value.hint)


def test_strings_are_no_paths_that_are_read(tmp_path: Path) -> None:
    task, out = classifier(tmp_path, 3), tmp_path / "out.adz"
    texts = [str(out), *(example.text for example in PLAIN)]
    schedule = Schedule(steps=1, batch=4)
    adaptzip.distill(
        None, out, teacher=task.adapter, base=task.base, data=texts, budget="80%", schedule=schedule, device="cpu"
    )
    assert out.exists()


def test_words_without_labels_are_told_before_what_is_held_out(tmp_path: Path) -> None:
    base, teacher = teacher_of(tiny_peft.bert_tokens, tmp_path, "query")
    kind: Kind = "tokens"
    with pytest.raises(CheckpointError, match="has 2 words and 1 labels"):
        prepare(
            None,
            teacher=teacher,
            base=base,
            data=[Example("a b", ("O",), words=("a", "b"))] * 3,
            request=Request(budget=Budget.parse("6kB"), device="cpu", base=base),
            schedule=Schedule(steps=2, batch=4),
            options=DataOptions(),
            kind=kind,
        )


@pytest.mark.parametrize("form", ["fitted", "a file"])
def test_a_method_that_says_nothing_of_training_is_refused(form: str, tmp_path: Path) -> None:
    base, teacher = teacher_of(tiny_peft.llama, tmp_path, "q_proj")
    file = None
    with installed(tmp_path / "site"):
        if form == "a file":
            file = tmp_path / "x.adz"
            adaptzip.compress(teacher, file, to="sixth", max_error=0.2)
        with pytest.raises(RefusedError, match="'sixth' can't be trained") as caught:
            prepare(
                file,
                teacher=teacher,
                base=base,
                data=PLAIN,
                request=Request(
                    "svd" if file else "sixth", Budget.of(None if file else "1500B"), base=base, device="cpu"
                ),
                schedule=Schedule(steps=2, batch=4),
                options=DataOptions(held_out=0.4),
            )
    assert "compress --to sixth" in (caught.value.hint or "")
