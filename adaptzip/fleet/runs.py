"""A run over a fleet: stages of tasks, each of which is done once, by whoever comes first, and noted when it is done.

A task's result is JSON, written as `work/RUN/STAGE/NUMBER.json` after everything else that the task makes: the file is
the note that it is done. What a task makes depends on the run's plan and on the results of the stages before, never on
who does it, or on how many there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from adaptzip._version import __version__
from adaptzip.files.trees import Tree, tree_at
from adaptzip.fleet.sources import Source
from adaptzip.fleet.store.layout import WORK

Json = Mapping[str, Any]
Work = Callable[["Run", Json], Json]
"""What does a task: it is given the run and the task's payload, and returns the task's result."""
_PLAN = "plan"
_DIGITS = 6


@dataclass(frozen=True)
class Plan:
    """All that decides what comes of a run.

    Attributes:
        command: what is done.
        sources: the adapters, in the order in which they count.
        settings: how, as JSON values.
    """

    command: str
    sources: tuple[Source, ...]
    settings: Json


@dataclass(frozen=True)
class Run:
    """What all workers of a run are told, in words that travel to other processes and machines.

    Attributes:
        location: of the store.
        key: tells runs apart that make something else.
    """

    location: str
    key: str

    @classmethod
    def of(cls, location: str, plan: Plan) -> Run:
        """The run of a plan, which is kept in the store."""
        run = cls(location, cls.key_of(plan))
        if run.tree.size(run.note(_PLAN, 0)) is None:
            run.tree.write(run.note(_PLAN, 0), _words(plan))
        return run

    @staticmethod
    def key_of(plan: Plan) -> str:
        """The key of a plan's run."""
        return f"{plan.command}-{hashlib.sha256(_words(plan)).hexdigest()[:16]}"

    @property
    def tree(self) -> Tree:
        """The store's files."""
        return _tree(self.location)

    @property
    def plan(self) -> Plan:
        """The plan, as it is kept."""
        return _plan(self)

    def file(self, stage: str, name: str) -> str:
        """A file of a stage's own, in the store."""
        return f"{WORK}/{self.key}/{stage}/{name}"

    def note(self, stage: str, number: int) -> str:
        """The note on a task."""
        return self.file(stage, f"{number:0{_DIGITS}d}.json")

    def done(self, stage: str) -> set[int]:
        """The tasks of a stage that are done."""
        start = len(self.file(stage, ""))
        names = [name[start:] for name in self.tree.names(f"{WORK}/{self.key}/{stage}")]
        return {int(name[:_DIGITS]) for name in names if name[:_DIGITS].isdigit() and name[_DIGITS:] == ".json"}

    def result(self, stage: str, number: int = 0) -> Json:
        """What came of a task that is done."""
        return _result(self, stage, number)

    def fresh(self, stage: str, number: int) -> Json:
        """As `result`, of a task that is looked at once, so that nothing is remembered of it."""
        return _result.__wrapped__(self, stage, number)


@dataclass(frozen=True)
class Stage:
    """Tasks that may be done in any order, by anyone.

    Attributes:
        name: of the stage, unlike the others of its run.
        work: what does a task, as "module:function".
        payloads: what each task is given, as JSON values.
    """

    name: str
    work: str
    payloads: Sequence[Json]


def perform(run: Run, stage: str, work: str, number: int, payload: Json) -> None:
    """Do one task, if it is not done, and note it."""
    note = run.note(stage, number)
    if run.tree.size(note) is not None:
        return
    module, _, function = work.partition(":")
    made: Work = getattr(import_module(module), function)
    told = json.dumps(made(run, payload), sort_keys=True, separators=(",", ":"), allow_nan=False)
    run.tree.write(note, told.encode())


def _words(plan: Plan) -> bytes:
    sources = [asdict(source) for source in plan.sources]
    told = {"version": __version__, "command": plan.command, "settings": plan.settings, "sources": sources}
    return json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@lru_cache(maxsize=4)
def _tree(location: str) -> Tree:
    return tree_at(location)


@lru_cache(maxsize=2)
def _plan(run: Run) -> Plan:
    told = json.loads(run.tree.read(run.note(_PLAN, 0)))
    return Plan(told["command"], tuple(Source(**source) for source in told["sources"]), told["settings"])


def forget() -> None:
    """Forget results that are remembered, as they are made anew."""
    _result.cache_clear()


@lru_cache(maxsize=4)
def _result(run: Run, stage: str, number: int) -> Json:
    """The last results are remembered, since many tasks of one process look at the same."""
    found: Json = json.loads(run.tree.read(run.note(stage, number)))
    return found
