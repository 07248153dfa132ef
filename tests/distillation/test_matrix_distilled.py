"""What `distill` reports is what `evaluate` and PEFT say of the file that it made, when that is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

import adaptzip
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.distillation.distilling import Distilled, finish
from adaptzip.distillation.files import assembled
from adaptzip.distillation.loop import first_state, train
from adaptzip.distillation.preparing import DataOptions, prepare
from adaptzip.distillation.schedules import Schedule
from adaptzip.fitting.requests import Request
from adaptzip.models.live.batches import hold_out
from adaptzip.reports.evaluation import NOTHING, TEACHER, evaluate
from tests.cases import oracle
from tests.cases.matrix import DTYPES, EXTRAS, TASKS, Cell, Made, cells, make, tight_budget

SHARE, SEED = 0.5, 0
_FIGURES = ("kl", "agreement", "cosine", "metric", "squared_error", "rank_correlation", "second")
EVERY = [cell for cell in cells() if cell.tied == TASKS[cell.task].tied and cell.dtype == "float32"]
QUICK = [Cell(task, TASKS[task].tied, DTYPES[i % 3], EXTRAS[1 + i % 4]) for i, task in enumerate(TASKS)]


def distilled(made: Made) -> tuple[Distilled, Adapter]:
    """After very few steps; and the fit that training started from."""
    setup = prepare(
        None,
        teacher=made.adapter,
        base=made.base,
        data=made.examples(),
        request=Request("svd", Budget.parse(tight_budget(made.adapter)), device="cpu"),
        schedule=Schedule(steps=4, batch=3, every=1, seed=SEED),
        options=DataOptions(held_out=SHARE),
    )
    state = first_state(setup.problem, setup.beginning.step)
    train(setup.problem, setup.schedule, state, setup.machines, save=lambda _: None, report=lambda _: None)
    fitted = setup.problem.fill(setup.beginning.tensors, setup.beginning.step)
    start = assembled(setup.beginning, fitted.step, fitted.coded, None)
    return finish(setup, state), adaptzip.reconstruct(start, **setup.beginning.found)


def check(cell: Cell, folder: Path) -> None:
    """Hold the report of a run to `evaluate` of its exported file, and to PEFT's own model with that."""
    made = make(cell, folder)
    told, fitted = distilled(made)
    adaptzip.export(told.compressed, folder / "distilled")
    adaptzip.export(fitted, folder / "fitted")
    examples = made.examples()
    held_out = hold_out(examples, SHARE, SEED)[1]
    files = {"distilled": folder / "distilled", "fitted": folder / "fitted"}
    found = evaluate(made.base, made.adapter, files, held_out, whole=examples, device="cpu").rows
    places = [examples.index(example) for example in held_out]
    teacher = made.outputs(made.adapter, places)
    for name, row in {"none": NOTHING, "teacher": TEACHER, "fitted": "fitted", "distilled": "distilled"}.items():
        for figure in _FIGURES:
            assert getattr(told.rows[name], figure) == close(getattr(found[row], figure)), (name, figure)
        own = made.outputs(files.get(row, made.adapter), places, updates=name != "none")
        for figure, value in oracle.numbers(made.task.kind, teacher, own).items():
            assert getattr(told.rows[name], figure) == close(value), (name, figure)
    training = told.compressed.provenance.distilled
    assert training is not None
    for name, figures in training.rows.items():
        score = told.rows[name]
        for short, value in zip(figures, (score.distance, score.agreement, score.metric), strict=True):
            assert short == (value if value is None else pytest.approx(value, rel=5e-4, abs=1e-6)), name


def close(value: float | None) -> object:
    return value if value is None else pytest.approx(value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("cell", QUICK, ids=str)
def test_the_report_is_what_evaluate_and_peft_say(cell: Cell, tmp_path: Path) -> None:
    check(cell, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_the_report_is_what_evaluate_and_peft_say_of_everything(cell: Cell, tmp_path: Path) -> None:
    check(cell, tmp_path)
