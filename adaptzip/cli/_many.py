"""Many files in one run: one process or several, one table, and an error of one that does not stop the others."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import has_magic
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from adaptzip._version import __version__
from adaptzip.cli import _failures
from adaptzip.cli._failures import Failure
from adaptzip.cli._output import SCHEMA, Output, as_json, raw
from adaptzip.cli._signals import Terminated
from adaptzip.core.processes import share
from adaptzip.errors import AdaptzipWarning, UsageError
from adaptzip.files.digest import digest, file_digest
from adaptzip.files.journal import Journal

if TYPE_CHECKING:
    from concurrent.futures import Future

NOTE = ".adaptzip-done"
"""What tells a later run with the same options which outputs of a folder are finished."""
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of one source.

    Attributes:
        source: as it was named.
        values: what there is to say of it, as JSON values; {} where it failed.
        failure: what went wrong, or None.
        skipped: whether an earlier run had done it.
    """

    source: Path
    values: Values
    failure: Failure | None = None
    skipped: bool = False


def expanded(sources: Sequence[Path]) -> list[Path]:
    """The sources, with shell patterns that no shell has replaced; each once.

    Raises:
        UsageError: if a pattern fits nothing.
    """
    found: dict[Path, None] = {}
    for source in sources:
        if source.exists() or not has_magic(str(source)):
            found[source] = None
            continue
        fitting = sorted(Path(source.anchor).glob(str(source.relative_to(source.anchor))))
        if not fitting:
            raise UsageError(f"{source}: nothing fits this pattern", hint="check it with ls")
        found |= dict.fromkeys(fitting)
    return list(found)


def targets_in(folder: Path, sources: Sequence[Path], name_of: Callable[[Path], str]) -> dict[Path, Path]:
    """Where the output of each source goes in a folder, which is made.

    Raises:
        UsageError: if two sources would have one output.
        OSError: if the folder cannot be made.
    """
    found: dict[Path, Path] = {}
    taken: dict[str, Path] = {}
    for source in sources:
        name = name_of(source)
        if name in taken:
            raise UsageError(
                f"{taken[name]} and {source} would both become {folder / name}", hint="give each a folder of its own"
            )
        taken[name], found[source] = source, folder / name
    folder.mkdir(parents=True, exist_ok=True)
    return found


def journal_of(folder: Path, command: str, settings: Values) -> Journal:
    """The note of what earlier runs with the same settings finished in a folder."""
    told = json.dumps({"version": __version__, "command": command, **settings}, sort_keys=True, default=str)
    return Journal(folder / NOTE, sha256(told.encode()).hexdigest())


def run(
    work: Callable[[Path], Values],
    sources: Sequence[Path],
    sink: Output,
    *,
    jobs: int = 1,
    place: Folder | None = None,
) -> list[Outcome]:
    """Do the work for every source, and tell the outcome of each as one line of JSON where that is asked for.

    Args:
        work: what is done in this process, or with `jobs` in others, to which it has to be sent.
        jobs: processes at once.
        place: the folder of the outputs, in which is noted what is done, by whoever did it; None where there is none.
    """
    outcomes = []
    skip = _nothing if place is None else place.known
    try:
        with sink.progress() as report:
            for number, outcome in enumerate(_outcomes(partial(_heard, work, place), sources, jobs, skip), 1):
                report(str(outcome.source), number, len(sources))
                _tell(outcome, sink)
                outcomes.append(outcome)
    except (KeyboardInterrupt, Terminated) as stop:
        if place is not None:
            stop.add_note(f"what was finished is kept in {place.folder}; the same command goes on with it")
        raise
    return outcomes


def _nothing(source: Path) -> None:
    """Nothing is done already."""


def _outcomes(
    work: Callable[[Path], Values], sources: Sequence[Path], jobs: int, skip: Callable[[Path], Values | None]
) -> Iterator[Outcome]:
    """In the order of the sources."""
    if jobs == 1 or len(sources) == 1:
        yield from (_outcome(source, skip, partial(work, source)) for source in sources)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    count = min(jobs, len(sources))
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=share, initargs=(count,)) as pool:
        ready: dict[Path, Outcome | Future[Values]] = {}
        for source in sources:
            # What is done, or can't be told, needs no process.
            first = _outcome(source, skip, dict)
            ready[source] = first if first.skipped or first.failure else pool.submit(work, source)
        try:
            for source, found in ready.items():
                yield found if isinstance(found, Outcome) else _outcome(source, _nothing, found.result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _outcome(source: Path, skip: Callable[[Path], Values | None], work: Callable[[], Values]) -> Outcome:
    from concurrent.futures.process import BrokenProcessPool

    try:
        found = skip(source)
        if found is not None:
            return Outcome(source, found, skipped=True)
        return Outcome(source, work())
    except BrokenProcessPool:
        told = f"{source}: a process died while it, or another, was worked on"
        return Outcome(source, {}, Failure(told, "run the command again, with fewer --jobs", 2, "BrokenProcessPool"))
    except Exception as error:
        return Outcome(source, {}, _failures.describe(error))


def _heard(work: Callable[[Path], Values], place: Folder | None, source: Path) -> dict[str, Any]:
    """The work, noted where it is done, with what it warned of, which has to come with it from another process."""
    said: list[str] = []

    def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
        if issubclass(category, AdaptzipWarning):
            said.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        values = {**work(source), "warnings": said}
    if place is not None:
        place.done(source, values)
    return values


def _tell(outcome: Outcome, sink: Output) -> None:
    failure = outcome.failure
    if not outcome.skipped:
        for message in outcome.values.get("warnings", ()):
            sink.warning(message if message.startswith(str(outcome.source)) else f"{outcome.source}: {message}")
    if sink.as_json:
        told: dict[str, Any] = {"schema": SCHEMA, "source": str(outcome.source), **outcome.values}
        told |= {"skipped": outcome.skipped, "error": None if failure is None else vars(failure)}
        raw(as_json(told, indent=None))
    elif failure is not None:
        sink.failed(outcome.source, failure.message, failure.hint)


@dataclass(frozen=True)
class Folder:
    """A folder of outputs, each under its source's name, in which is noted what is done.

    Attributes:
        targets: where the output of each source goes.
        note: what runs with the same settings finished; None where nothing is noted.
        files: the files of a source, by whose content it is known again.
        finished: what was noted before this run, by the name of the output.
        own: sizes of outputs, by name, that any earlier run made here, which may be replaced.
    """

    targets: Mapping[Path, Path]
    note: Journal | None
    files: Callable[[Path], Sequence[Path]]
    finished: Mapping[str, Values]
    own: Mapping[str, Collection[int]]

    @classmethod
    def of(
        cls, targets: Mapping[Path, Path], note: Journal | None, files: Callable[[Path], Sequence[Path]], *, force: bool
    ) -> Folder:
        """With what is noted, unless all is to be done again."""
        finished = {} if note is None or force else note.parts()
        return cls(targets, note, files, finished, {} if note is None else _sizes_noted(note))

    @property
    def folder(self) -> Path:
        """Where the outputs are."""
        return next(iter(self.targets.values())).parent

    def replaced(self) -> frozenset[Path]:
        """The sources whose output is there and was made by an earlier run, so that it is no one's own."""
        noted = {source: self.own.get(target.name, ()) for source, target in self.targets.items()}
        there = {source: target for source, target in self.targets.items() if noted[source] and target.exists()}
        return frozenset(source for source, target in there.items() if _bytes_of(target) in noted[source])

    def known(self, source: Path) -> Values | None:
        """What there is to say of a source that is done already."""
        target = self.targets[source]
        told = self.finished.get(target.name)
        if told is None or not target.exists():
            return None
        same = told["bytes"] == _bytes_of(target) and told["source"] == self._content(source)
        return told["values"] if same else None

    def done(self, source: Path, values: Values) -> None:
        """Note that a source is done."""
        if self.note is not None:
            target = self.targets[source]
            self.note.note(target.name, source=self._content(source), bytes=_bytes_of(target), values=dict(values))

    def _content(self, source: Path) -> str:
        """What tells a source's content: the digests of its files."""
        return digest(f"{file.name}:{file_digest(file)}".encode() for file in self.files(source))


def _sizes_noted(note: Journal) -> dict[str, set[int]]:
    """Sizes of what runs with any settings made, by name."""
    found: dict[str, set[int]] = {}
    for told in note.every_part():
        if isinstance(told.get("bytes"), int):
            found.setdefault(str(told["part"]), set()).add(told["bytes"])
    return found


def _bytes_of(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())


def finish(outcomes: Sequence[Outcome], table: Callable[[Sequence[Outcome]], str], sink: Output) -> None:
    """Show the table of what was done, and end with the exit code of what was not.

    Raises:
        typer.Exit: with the largest exit code of the failures, if there are some.
    """
    failed = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    skipped = sum(outcome.skipped for outcome in outcomes)
    if not sink.as_json and not sink.quiet:
        rows = [outcome for outcome in outcomes if outcome.failure is None]
        if rows:
            sink.result({}, lambda: table(rows))
        counts = [f"{len(outcomes) - skipped - len(failed)} done"]
        counts += [f"{skipped} as before"] if skipped else []
        counts += [f"{len(failed)} failed"] if failed else []
        sink.note(", ".join(counts))
    if failed:
        raise typer.Exit(max(failure.exit_code for failure in failed))
