"""A whole run of distillation with files: it can be stopped, keeps its best so far, and goes on later."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptzip.adz.container import writer
from adaptzip.core.progress import Progress, silent
from adaptzip.distillation.distilling import Distilled, finish
from adaptzip.distillation.loop import first_state, train
from adaptzip.distillation.machines import find_machines
from adaptzip.distillation.pacing import paced
from adaptzip.distillation.preparing import SELF, DataOptions, Setup, prepare
from adaptzip.distillation.problem import Moment, State
from adaptzip.distillation.resuming import load_state, mark_of, on_device, progress_path, save_state
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import AdaptzipError, CheckFailedError, OutputError, StoppedError, UsageError
from adaptzip.files.atomic import REPLACE
from adaptzip.files.drafts import recover
from adaptzip.files.inputs import check_apart
from adaptzip.fitting.requests import Request
from adaptzip.models.live.running import Kind
from adaptzip.models.texts.data_sets import named_set
from adaptzip.models.texts.records import rows_digest

INTERVAL = 30.0
"""Seconds between two saves of the progress."""
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass(frozen=True, eq=False)
class Run:
    """What is trained, from which files, and where the result goes.

    Attributes:
        source: a `.adz` to train further, or an adapter to fit; None fits the teacher.
        teacher, base: folders or files.
        data: a file of texts, or "self".
    """

    source: Path | None
    output: Path
    teacher: Path
    base: Path
    data: str
    request: Request
    schedule: Schedule = field(default_factory=Schedule)
    options: DataOptions = field(default_factory=DataOptions)
    kind: Kind | None = None

    @property
    def best(self) -> Path:
        """Where the best file of a run that was stopped is written."""
        return self.output.with_name(f"{self.output.stem}.best.adz")

    @property
    def progress(self) -> Path:
        """Where the run's progress is kept."""
        return progress_path(self.output)

    def check_places(self) -> None:
        """Refuse to write over what the run reads, or into it.

        Raises:
            UsageError: if the output, the best file or the progress is not apart from what the run reads.
        """
        data = None if self.data == SELF else Path(self.data)
        own = {"source": self.source, "teacher": self.teacher, "base": self.base, "data": data}
        for path in (self.output, self.best, self.progress):
            check_apart(path, **self.request.inputs | own)

    def mark(self, processes: int) -> str:
        """What tells this run from others."""
        asked = self.request
        files = {"source": self.source, "teacher": self.teacher, "base": self.base}
        texts = {"data": None if self.data == SELF else Path(self.data), "calibration": _path(asked.calibration)}
        fetched = {name: path for name, path in texts.items() if path is not None and named_set(path) is not None}
        files |= {name: None if name in fetched else path for name, path in texts.items()}
        files |= {name: _path(getattr(asked, name)) for name in ("config", "basis")}
        told = (
            "to",
            "budget",
            "extras",
            "alpha",
            "dialect",
            "device",
            "seed",
            "embed_basis",
            "start",
            "allocate",
            "options",
            "base_name",
        )
        settings: dict[str, Any] = {name: str(getattr(asked, name)) for name in told}
        settings |= {"data": asdict(self.options), "kind": self.kind, "processes": processes}
        settings |= {f"rows of {name}": rows_digest(path) for name, path in fetched.items()}
        return mark_of(self.schedule, files, settings)


def carry_out(
    run: Run,
    *,
    resume: bool = False,
    force: bool = False,
    began: float | None = None,
    say: Progress = silent,
    report: Callable[[Moment], None] = lambda _: None,
) -> tuple[Distilled, Setup]:
    """Train and write `run.output`; of several processes the first writes.

    Args:
        resume: go on from the progress that is there; without any, begin.
        force: replace an existing output.
        began: when the run began, by `time.monotonic`, where its minutes are stated; None for now.

    Raises:
        StoppedError: if a signal came; the progress is kept, and the best file so far written as `run.best`.
        UsageError: if there is progress without `resume`, or that of another run, or the run would write over what
            it reads.
        OutputError: if there is a best file of another run, without `force`.
        CheckFailedError: if training failed; the best file so far is written as `run.best`.
        AdaptzipError: others, as `adaptzip.distillation.distilling.prepare` and `adaptzip.adz.container.writer.write`.
    """
    run.check_places()
    if run.best.exists() and not (force or run.progress.exists()):
        raise OutputError(
            f"{run.best}: exists already, and the best file of a run that is stopped is written there",
            hint=REPLACE,
        )
    if run.progress.exists() and not resume:
        raise UsageError(
            f"{run.progress}: a run was stopped here",
            hint="add `resume=True` to go on, or remove that file to start anew",
        )
    try:
        return _carry_out(run, force, time.monotonic() if began is None else began, say, report)
    except KeyboardInterrupt:
        if not run.progress.exists():
            raise
        raise _left(f"interrupted; the progress of before is {run.progress}", signal.SIGINT) from None


def _carry_out(
    run: Run, force: bool, began: float, say: Progress, report: Callable[[Moment], None]
) -> tuple[Distilled, Setup]:
    machines = find_machines(run.request.device)
    if machines.first:
        for path in (run.output, run.best, run.progress):
            recover(Path(os.path.realpath(path)))
    mark = run.mark(machines.count)
    before = load_state(run.progress, mark) if run.progress.exists() else None
    setup = prepare(
        run.source, teacher=run.teacher, base=run.base, data=run.data, request=run.request, schedule=run.schedule,
        options=run.options, kind=run.kind, machines=machines, say=say,
    )  # fmt: skip
    begun = setup.beginning
    state = (
        first_state(setup.problem, begun.step, begun.given) if before is None else on_device(before, machines.device)
    )
    planned = paced(setup.problem, setup.schedule, state, setup.machines, began)
    setup = replace(setup, schedule=planned)
    _train(run, setup, state, mark, report)
    if setup.machines.first and run.progress.exists():
        save_state(run.progress, state, mark)
    made = finish(setup, state)
    if setup.machines.first:
        writer.write(made.compressed, run.output, force=force)
        run.progress.unlink(missing_ok=True)
        if before is not None:
            run.best.unlink(missing_ok=True)
    return made, setup


def _train(run: Run, setup: Setup, state: State, mark: str, report: Callable[[Moment], None]) -> None:
    saved = time.monotonic()
    first = setup.machines.first
    with _noted_signals() as came:

        def save(now: State) -> None:
            nonlocal saved
            if setup.machines.agree(len(came)):
                raise KeyboardInterrupt
            if first and time.monotonic() - saved >= INTERVAL:
                save_state(run.progress, now, mark)
                saved = time.monotonic()

        try:
            train(setup.problem, setup.schedule, state, setup.machines, save=save, report=report)
        except KeyboardInterrupt:
            if len(came) > 1:
                raise  # In the middle of an update; what was saved before is whole.
            if first:
                save_state(run.progress, state, mark)
                _write_best(run, setup, state)
            raise _stopped(run, came) from None
        except CheckFailedError as error:
            kept = f"; the progress is {run.progress}" if run.progress.exists() else ""
            if first:
                # What stopped training, such as memory, may stop this as well; the first error is the one to tell.
                with contextlib.suppress(AdaptzipError, RuntimeError):
                    _write_best(run, setup, state)
                    kept = f"; the best so far is {run.best}"
                    run.progress.unlink(missing_ok=True)
            raise CheckFailedError(f"{error}{kept}", hint=error.hint) from error


def _write_best(run: Run, setup: Setup, state: State) -> None:
    writer.write(finish(setup, state).compressed, run.best, force=True)


def _stopped(run: Run, came: list[int]) -> StoppedError:
    number = came[0] if came else signal.SIGINT
    word = "terminated" if number == signal.SIGTERM else "interrupted"
    return _left(f"{word}; the best so far is {run.best}, the progress {run.progress}", number)


def _left(message: str, number: int) -> StoppedError:
    return StoppedError(message, hint="add `resume=True` to go on", exit_code=_CODES[signal.Signals(number)])


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM wait for the end of an update; a second one does not."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _CODES} if mine else {}
    noted = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in noted:
            signal.signal(number, note)
        yield came
    finally:
        for number, handler in noted.items():
            signal.signal(number, handler)


def _path(value: object) -> Path | None:
    return Path(value) if isinstance(value, str | Path) else None
