"""Which tests run which lines of a room, and how long they take: measured once, before any mutant."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import process_time
from typing import Any

from checks.mutants.making import Mutant
from checks.mutants.trying import PYTEST, Trial, run_all

ROOT = Path(__file__).parent.parent.parent
FILES = 6
"""Files of tests that a mutant is tried against."""
SECONDS = 1800.0
"""For one half of the tests, with the lines watched."""


@dataclass(frozen=True)
class Tested:
    """One test that passes.

    Attributes:
        name: as pytest names it.
        seconds: of computing in its own process.
        lines: by file, the lines within functions that it ran, or that its module's fixtures ran.
    """

    name: str
    seconds: float
    lines: Mapping[str, Sequence[int]]


def watch(trees: Sequence[Path], room: str, test_files: Sequence[str]) -> list[Tested]:
    """The tests of some files, with the lines of a room that they run.

    What was seen before stands in `.mutants/`, and is taken from there where neither the package nor the file changed.
    """
    kept_at = ROOT / ".mutants" / f"{room}.json"
    package = _digest(sorted((ROOT / "adaptzip").rglob("*.py")))
    kept = json.loads(kept_at.read_text()) if kept_at.exists() else {}
    digests = {file: f"{package} {_digest([ROOT / file])}" for file in test_files}
    seen = {file: kept[file] for file in test_files if file in kept and kept[file]["digest"] == digests[file]}
    new = [file for file in test_files if file not in seen]
    tests = _watch_in(trees, room, new)
    for file in new:
        mine = [asdict(test) for test in tests if _module(test.name) == file]
        seen[file] = {"digest": digests[file], "tests": mine}
    kept_at.parent.mkdir(exist_ok=True)
    kept_at.write_text(json.dumps({**kept, **seen}))
    return [Tested(**test) for one in seen.values() for test in one["tests"]]


def _watch_in(trees: Sequence[Path], room: str, test_files: Sequence[str]) -> list[Tested]:
    """Run the tests, a share of them in every copy."""
    shares = [share for number in range(len(trees)) if (share := test_files[number :: len(trees)])]
    for _, status in run_all([_watching(room, share) for share in shares], trees):
        if status != 0:
            told = "".join((tree.parent / "output").read_text(errors="replace")[-2000:] for tree in trees)
            raise SystemExit(f"{told}\nerror: the tests could not be watched")
    found = [tree.parent / "tested.json" for tree in trees]
    return [Tested(**test) for path in found if path.exists() for test in json.loads(path.read_text())]


def _watching(room: str, share: Sequence[str]) -> Trial:
    return Trial(lambda tree: None, lambda: _watch_here(room, share), SECONDS)


def _digest(paths: Sequence[Path]) -> str:
    found = sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def tests_for(mutant: Mutant, source: str, tested: Sequence[Tested], seconds: float) -> list[Tested]:
    """The tests that run the lines that a mutant changes: those of a file of its name first, then of its file's own
    folder, and of each the fast ones first.

    Tests that would make the whole take more than `seconds` are left out, and those of more than `FILES` files.
    """
    file = mutant.file
    span = _statement(source, mutant.line)
    through = [test for test in tested if set(test.lines.get(file, ())) & set(span)]
    own = str(Path("tests", *Path(file).parts[1:-1]))

    def of_name(test: Tested) -> bool:
        return test.name.startswith(own) and Path(_module(test.name)).stem == f"test_{Path(file).stem}"

    def order(test: Tested) -> tuple[bool, bool, float, str]:
        return not of_name(test), not test.name.startswith(own), test.seconds, test.name

    if not through:
        # What stands outside functions is run by an import, which no test is seen to do.
        near = {_module(test.name) for test in tested if file in test.lines}
        through = [test for test in tested if _module(test.name) in near or of_name(test)]
    return list(_within(sorted(through, key=order), seconds))


def _within(tests: Sequence[Tested], seconds: float) -> Iterator[Tested]:
    """Of tests in order those that fit, out of few files: each takes time to be read."""
    files: set[str] = set()
    for test in tests:
        if test.seconds <= seconds and (_module(test.name) in files or len(files) < FILES):
            files.add(_module(test.name))
            seconds -= test.seconds
            yield test


def _statement(source: str, line: int) -> range:
    """The lines of the innermost statement at a line: of its head alone, where statements stand in it.

    The head of a function is run when its file is imported, so the function's body stands for it.
    """
    held = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and _start(node) <= line]
    held = [node for node in held if line <= (node.end_lineno or 0)]
    if not held:
        return range(line, line + 1)
    found = max(held, key=lambda node: (node.lineno, -(node.end_lineno or 0)))
    body = getattr(found, "body", None)
    if not body or isinstance(found, ast.FunctionDef):
        return range(_start(found), (found.end_lineno or 0) + 1)
    return range(_start(found), body[0].lineno)


def _start(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _watch_here(room: str, test_files: Sequence[str]) -> int:
    """Run the tests in this process, and write what they ran beside the copy."""
    import coverage
    import pytest

    sys.dont_write_bytecode = False
    here = Path.cwd()
    watcher = coverage.Coverage(data_file=None, include=[f"{here}/adaptzip/{room}/*"], config_file=False)
    noted = _Notes(watcher)
    watcher.start()
    pytest.main([*PYTEST, *test_files], plugins=[noted])
    watcher.stop()
    told = [asdict(test) for test in noted.tests(watcher.get_data(), here)]
    (here.parent / "tested.json").write_text(json.dumps(told))
    return 0


class _Notes:
    """A plugin of pytest that tells coverage which test runs, and notes what passed and how long it took."""

    def __init__(self, watcher: Any) -> None:
        self._watcher = watcher
        self._started = 0.0
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Fixtures are made once for a whole module: what they run is noted for all of its tests."""
        self._watcher.switch_context(_module(nodeid))

    def pytest_runtest_call(self, item: Any) -> None:
        self._watcher.switch_context(item.nodeid)
        self._started = process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self._seconds[report.nodeid] = process_time() - self._started
        if not report.passed:
            self._failed.add(report.nodeid)

    def tests(self, data: Any, root: Path) -> Iterator[Tested]:
        """Every test that passed, with its lines."""
        by_context: dict[str, dict[str, list[int]]] = {}
        for path in data.measured_files():
            file, inner = str(Path(path).relative_to(root)), _inner_lines(Path(path).read_text(encoding="utf-8"))
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts if line in inner else ():
                    by_context.setdefault(context, {}).setdefault(file, []).append(line)
        for name, seconds in self._seconds.items():
            if name not in self._failed:
                mine, shared = by_context.get(name, {}), by_context.get(_module(name), {})
                lines = {file: sorted({*mine.get(file, []), *shared.get(file, [])}) for file in {*mine, *shared}}
                yield Tested(name, seconds, lines)


def _module(name: str) -> str:
    return name.partition("::")[0]


def _inner_lines(source: str) -> set[int]:
    """The lines of function bodies, which are not run by an import."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {line for f in functions for line in range(f.body[0].lineno, (f.end_lineno or 0) + 1)}
