"""Texts with completions that are longer than the model takes, cut at either end."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptzip.models.live.batches import Example
from adaptzip.reports.evaluation import TEACHER
from tests.cases.models_on_disk import set_tokeniser
from tests.cases.tasks import language
from tests.reports.test_tasks import completion_loss, loss, measured


@pytest.mark.parametrize("side", ["left", "right"])
def test_of_a_text_that_is_cut_the_completion_counts_that_is_left(side: str, tmp_path: Path) -> None:
    task = language(tmp_path)
    set_tokeniser(task.base, truncation_side=side)
    found = measured(task, [Example("a b c", completion=" d e f")], max_tokens=5)
    left, completion = ("b c", " d e f") if side == "left" else ("a b c", " d e")
    assert found.samples == len(completion.split())
    expected = completion_loss(task, task.live(), [(left, completion)])
    assert found.rows[TEACHER].metric == pytest.approx(expected, rel=1e-5)


def test_where_no_prompt_is_left_the_first_token_follows_nothing(tmp_path: Path) -> None:
    task = language(tmp_path)
    set_tokeniser(task.base, truncation_side="left")
    cut = measured(task, [Example("a b c", completion=" d e f")], max_tokens=2)
    assert cut.rows[TEACHER].metric == pytest.approx(loss(task, task.live(), ["e f"]), rel=1e-5)
