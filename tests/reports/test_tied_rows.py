"""Token rows of a weight that several layers share: where they count in the live model, and in a merged one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip.models.live.running import Loading, load_bare, load_teacher
from tests.cases.models_on_disk import TEXTS
from tests.cases.tasks import Task, language

CPU = torch.device("cpu")


def with_rows(folder: Path, rows: Any) -> Task:
    return language(folder, tied=True, trainable_token_indices=rows)


def ours(task: Task, *, merged: bool) -> torch.Tensor:
    adapter = adaptzip.read(task.adapter)
    loaded = load_teacher(task.base, adapter, CPU, loading=Loading(merged=merged))
    with torch.no_grad():
        return torch.cat([loaded(loaded.batches([text], 1, 16)[0]) for text in TEXTS]).double()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("rows", [[3, 5], {"lm_head": [3, 4]}])
def test_rows_count_where_peft_has_them(rows: Any, merged: bool, tmp_path: Path) -> None:
    task = with_rows(tmp_path, rows)
    model = task.live(merged=merged)
    expected = torch.cat([task.logits(text, model=model) for text in TEXTS])
    torch.testing.assert_close(ours(task, merged=merged), expected, rtol=1e-4, atol=1e-5)


def test_rows_of_the_head_leave_the_embedding_alone(tmp_path: Path) -> None:
    task = with_rows(tmp_path, {"lm_head": [3, 4]})
    loaded = load_bare(task.base, adaptzip.read(task.adapter), CPU)
    model: Any = loaded.model
    changed = (model.lm_head.weight != model.get_input_embeddings().weight).any(1)
    assert changed.nonzero().flatten().tolist() == [3, 4]
