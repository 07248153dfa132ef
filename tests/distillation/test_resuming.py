"""Runs that are stopped, and go on with the same result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from adaptzip.adz.container.reader import open_adz
from adaptzip.core.budget import Budget
from adaptzip.distillation import running
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.problem import Moment, State
from adaptzip.distillation.resuming import load_state, mark_of, save_state
from adaptzip.distillation.running import Run, carry_out
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import CheckFailedError, CheckpointError, OutputError, StoppedError, UsageError
from adaptzip.fitting.requests import Request
from tests.cases.data_sets import parquet, serving_sets
from tests.cases.evaluation_cases import classifier, write_rows

SCHEDULE = Schedule(steps=12, batch=2, every=3)


def note(seen: list[int], moment: Moment) -> None:
    seen.append(moment.step)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    base, teacher = classifier(tmp_path)
    data = write_rows(tmp_path / "rows.jsonl")
    request = Request(budget=Budget.parse("6kB"), base=base, device="cpu")
    return Run(None, tmp_path / "out.adz", teacher, base, str(data), request, SCHEDULE)


def stop_after(step: int) -> Callable[[Moment], None]:
    def report(moment: Moment) -> None:
        if moment.step == step:
            raise KeyboardInterrupt

    return report


def steps_of(path: Path) -> int | None:
    told = open_adz(path).provenance.distilled
    return None if told is None else told.steps


def test_a_run_that_was_stopped_gives_the_same_file(run: Run) -> None:
    whole = replace(run, output=run.output.with_name("whole.adz"))
    carry_out(whole)
    expected = whole.output.read_bytes()
    assert not whole.progress.exists()
    for stop in (1, 6, 7, 11):
        with pytest.raises(StoppedError, match="out.best.adz") as caught:
            carry_out(run, report=stop_after(stop))
        assert caught.value.exit_code == 130
        assert not run.output.exists()
        assert steps_of(run.best) == stop
        assert run.progress.exists()
        seen: list[int] = []
        carry_out(run, resume=True, force=True, report=partial(note, seen))
        assert seen == list(range(stop + 1, 13))
        assert run.output.read_bytes() == expected
        assert not run.progress.exists()
        run.output.unlink()


def test_what_was_saved_along_the_way_is_enough(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill, nothing is written when training ends."""
    whole = replace(run, output=run.output.with_name("whole.adz"))
    carry_out(whole)
    monkeypatch.setattr(running, "INTERVAL", 0.0)

    class Killed(BaseException):
        pass

    def report(moment: Moment) -> None:
        if moment.step == 9:
            raise Killed

    with pytest.raises(Killed):
        carry_out(run, report=report)
    assert not run.best.exists()
    monkeypatch.undo()
    seen: list[int] = []
    carry_out(run, resume=True, report=lambda moment: seen.append(moment.step))
    assert seen == [9, 10, 11, 12]
    assert run.output.read_bytes() == whole.output.read_bytes()


def test_a_run_does_not_write_over_what_it_reads(run: Run) -> None:
    for source in (run.output, run.best, run.progress):
        with pytest.raises(UsageError, match="would replace its source"):
            carry_out(replace(run, source=source))
    run.best.write_bytes(b"something else")
    with pytest.raises(OutputError, match="exists already, and the best file"):
        carry_out(run)
    assert run.best.read_bytes() == b"something else"


def test_a_run_writes_nothing_into_what_it_reads(run: Run) -> None:
    before = sorted(run.base.rglob("*"))
    with pytest.raises(UsageError, match="would lie in"):
        carry_out(replace(run, output=run.base / "out.adz"), force=True)
    run.output.with_name(f"{run.output.name}.progress").symlink_to(run.base / "config.json")
    with pytest.raises(UsageError, match=r"out\.adz\.progress: the output would replace config\.json, a part of"):
        carry_out(run, resume=True, force=True)
    assert sorted(run.base.rglob("*")) == before


def test_progress_of_another_run_is_refused(run: Run) -> None:
    with pytest.raises(StoppedError):
        carry_out(run, report=stop_after(2))
    with pytest.raises(UsageError, match="a run was stopped here") as caught:
        carry_out(run)
    assert "`resume=True`" in str(caught.value.hint)
    others = [
        replace(run, schedule=replace(SCHEDULE, seed=1)),
        replace(run, schedule=replace(SCHEDULE, weights=LossWeights(temperature=2.0))),
        replace(run, request=replace(run.request, budget=Budget.parse("7kB"))),
        replace(run, options=replace(run.options, max_tokens=5)),
    ]
    for other in others:
        with pytest.raises(UsageError, match="progress of another run"):
            carry_out(other, resume=True)
    Path(run.data).write_text(Path(run.data).read_text() + "\n")
    with pytest.raises(UsageError, match="progress of another run"):
        carry_out(run, resume=True)


def test_more_time_may_be_given_to_a_run_that_goes_on() -> None:
    marks = [mark_of(replace(SCHEDULE, seconds=seconds), {}, {}) for seconds in (None, 5.0)]
    assert marks[0] == marks[1] != mark_of(replace(SCHEDULE, steps=13), {}, {})


def test_damaged_progress_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.adz.progress"
    save_state(path, State(3, {("m", "A"): torch.ones(2)}, {}, 0.5), "mark")
    assert torch.equal(load_state(path, "mark").parameters[("m", "A")], torch.ones(2))
    content = path.read_bytes()
    for broken in (b"", b"nonsense", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"a\.adz\.progress"):
            load_state(path, "mark")


def test_progress_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.adz.progress"
    save_state(path, State(3, {}, {}, 0.5), "mark")
    before = path.read_bytes()

    def half(values: object, handle: object) -> None:
        handle.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, State(4, {}, {}, 0.5), "mark")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_loss_that_fails_keeps_the_best(run: Run) -> None:
    def report(moment: Moment) -> None:
        if moment.step == 8:
            raise CheckFailedError("step 8: the loss is nan", hint="try a lower `rate=`")

    with pytest.raises(CheckFailedError, match=r"loss is nan; the best so far is .*out\.best\.adz") as caught:
        carry_out(run, report=report)
    assert caught.value.hint == "try a lower `rate=`"
    assert steps_of(run.best) == 8
    assert not run.output.exists()
    assert not run.progress.exists()


def test_progress_is_all_there_is_where_the_best_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoppedError):
        carry_out(run, report=stop_after(3))
    run.best.unlink()
    before = run.progress.read_bytes()

    def report(moment: Moment) -> None:
        raise CheckFailedError("there is not enough memory")

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(running, "_write_best", fails)
    with pytest.raises(CheckFailedError, match=r"not enough memory; the progress is .*out\.adz\.progress"):
        carry_out(run, resume=True, report=report)
    assert run.progress.read_bytes() == before


def test_rows_of_the_hub_tell_runs_apart_by_what_they_are(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="the extra data is not installed")
    marks = []
    for place, text in enumerate("aab"):
        sets = {"datasets/some/rows": {"train.parquet": parquet([{"text": text}])}}
        with serving_sets(sets, tmp_path / str(place), monkeypatch):
            marks.append(replace(run, data="some/rows:train").mark(1))
    assert marks[0] == marks[1] != marks[2]
