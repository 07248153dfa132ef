"""A classifier's adapter without any trained head is not taken for something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adaptzip.core.adapter import Adapter
from adaptzip.core.meta import Meta
from adaptzip.errors import RefusedError
from adaptzip.reports.evaluation import TEACHER, evaluate
from tests.cases.models_on_disk import adapter, save
from tests.cases.teachers import encoder, train, unlabelled


def headless(folder: Path) -> tuple[Path, Adapter]:
    """(base, teacher)."""
    found = adapter(encoder(), "query", rank=3)
    return save(encoder, folder), replace(found, meta=Meta(config={"task_type": "SEQ_CLS"}))


def test_eval_and_distill_refuse_it(tmp_path: Path) -> None:
    base, teacher = headless(tmp_path)
    with pytest.raises(
        RefusedError, match="the teacher: the adapter is for SEQ_CLS, and neither it nor the base"
    ) as told:
        evaluate(base, teacher, {}, unlabelled())
    assert "`kind='encoder'`" in str(told.value.hint)
    with pytest.raises(RefusedError, match="the adapter is for SEQ_CLS, and neither it nor the base"):
        train(base, teacher, "svd", "2kB", data=unlabelled())


def test_the_task_that_the_hint_names_is_run(tmp_path: Path) -> None:
    base, teacher = headless(tmp_path)
    found = evaluate(base, teacher, {}, unlabelled(), kind="encoder")
    assert found.kind == "encoder"
    assert found.rows[TEACHER].cosine == pytest.approx(0, abs=1e-9)
