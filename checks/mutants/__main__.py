"""Try mutants of a room against the tests: `python -m checks.mutants ROOM [--sample N] [--seed S] [--file F]`.

Nothing in the working tree is changed. Prints what was killed, by file, and every mutant that lived.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")
sys.dont_write_bytecode = True

from checks.mutants.excused import excuses, reason_for  # noqa: E402
from checks.mutants.making import Mutant, draw  # noqa: E402
from checks.mutants.tested import ROOT, Tested, tests_for, watch  # noqa: E402
from checks.mutants.trying import PYTEST, Trial, copies, import_slowly, run_all  # noqa: E402

TESTS = {
    "core": ("core", "adz/coding", "bases", "methods/test_conformance.py", "fitting/test_fits.py", "reports/measures"),
    "adz": ("adz", "formats"),
    "fitting": ("fitting", "cli/test_cli_plan.py"),
}
"""The tests that are run for a room, beside those of a folder of its name."""
PROCESSES = 2


def main() -> int:
    """Draw, try, and print; 1 where less than the wanted share was killed."""
    asked = _arguments()
    files = [asked.file] if asked.file else _files(f"adaptzip/{asked.room}")
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file in files}
    mutants, left_out = _drawn(sources, asked.seed, asked.sample)
    import_slowly()
    with copies(ROOT, PROCESSES) as trees:
        folders = TESTS.get(asked.room, (asked.room,))
        tested = watch(trees, asked.room, [file for folder in folders for file in _files(f"tests/{folder}")])
        print(f"{len(tested)} tests, {len(mutants)} mutants of {asked.room}, seed {asked.seed}", file=sys.stderr)
        chosen = [tests_for(mutant, sources[mutant.file], tested, asked.seconds) for mutant in mutants]
        outcomes = _try_all(sources, mutants, chosen, trees)
    share = _report(mutants, outcomes, left_out)
    return 0 if share >= asked.least / 100 else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m checks.mutants", description=__doc__)
    parser.add_argument("room", help="a folder of the package, such as core")
    parser.add_argument("--sample", type=int, default=150, help="mutants to try, drawn from all of the room's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="of tests that each is tried against")
    parser.add_argument("--file", help="one file of the room, such as adaptzip/core/budget.py")
    parser.add_argument("--least", type=float, default=85.0, help="share in percent below which this fails")
    return parser.parse_args()


def _files(place: str) -> list[str]:
    found = sorted((ROOT / place).rglob("*.py")) if (ROOT / place).is_dir() else [ROOT / place]
    return [str(path.relative_to(ROOT)) for path in found]


def _drawn(sources: Mapping[str, str], seed: int, count: int) -> tuple[list[Mutant], int]:
    """`count` mutants that count, and how many were drawn and left out on the way."""
    known, mutants, left_out = excuses(), [], 0
    for mutant in draw(sources, seed):
        if reason_for(mutant, known) is not None:
            left_out += 1
        else:
            mutants.append(mutant)
        if len(mutants) == count:
            break
    return mutants, left_out


def _try_all(
    sources: Mapping[str, str], mutants: Sequence[Mutant], chosen: Sequence[Sequence[Tested]], trees: Sequence[Path]
) -> dict[int, bool]:
    """Whether each mutant was killed, by its place in the list.

    The first one's tests run once without it too, and must pass, or nothing that tests say means anything.
    """
    trials = [_trial({**sources, m.file: m.source}, tests) for m, tests in zip(mutants, chosen, strict=True)]
    outcomes: dict[int, bool] = {}
    for index, status in run_all([_trial(sources, chosen[0]), *trials], trees):
        if index:
            outcomes[index - 1] = status != 0
            said = _told(mutants[index - 1]) if status == 0 else ""
            print(f"{sum(outcomes.values())} of {len(outcomes)} killed {said}", file=sys.stderr, flush=True)
        elif status != 0:
            raise SystemExit(f"error: the tests of {mutants[0].file} fail without a mutant")
    return outcomes


def _trial(sources: Mapping[str, str], tests: Sequence[Tested]) -> Trial:
    names = [test.name for test in tests]
    seconds = 10 + 3 * sum(test.seconds for test in tests)
    return Trial(lambda tree: _write(tree, sources), lambda: _status(names), seconds)


def _write(tree: Path, sources: Mapping[str, str]) -> None:
    for file, source in sources.items():
        if (tree / file).read_text(encoding="utf-8") != source:
            (tree / file).write_text(source, encoding="utf-8")


def _status(names: Sequence[str]) -> int:
    """pytest's exit status, file after file up to the first failure; 0 where no test runs the mutated line."""
    import pytest

    files: dict[str, list[str]] = {}
    for name in names:
        files.setdefault(name.partition("::")[0], []).append(name)
    scratch = f"--basetemp={Path.cwd().parent / 'scratch'}"
    statuses = (int(pytest.main([*PYTEST, "-x", "--tb=line", scratch, *tests])) for tests in files.values())
    return next(filter(None, statuses), 0)


def _report(mutants: Sequence[Mutant], killed: Mapping[int, bool], left_out: int) -> float:
    """Print the table and the mutants that lived; the share killed."""
    total = Counter(mutant.file for mutant in mutants)
    dead = Counter(mutant.file for index, mutant in enumerate(mutants) if killed[index])
    print("| file | mutants | killed | lived | share |\n|---|---:|---:|---:|---:|")
    for name, count, gone in [*((f, total[f], dead[f]) for f in sorted(total)), ("all", len(mutants), dead.total())]:
        print(f"| {name} | {count} | {gone} | {count - gone} | {100 * gone / count:.1f} % |")
    print(f"\n{left_out} more were drawn that are known to be equivalent.\n")
    for index in sorted(range(len(mutants)), key=lambda i: (mutants[i].file, mutants[i].line)):
        if not killed[index]:
            print(_told(mutants[index]))
    return dead.total() / len(mutants)


def _told(mutant: Mutant) -> str:
    return f"{mutant.file}:{mutant.line}: {mutant.before}  =>  {mutant.after}"


if __name__ == "__main__":
    sys.exit(main())
