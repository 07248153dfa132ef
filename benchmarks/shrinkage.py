"""What files of a budget gain by being larger than the nearest in the square (docs/decisions/0018-shrinkage.md).

The teachers of `benchmarks.distillation`, compressed without data: a file that meets an error, which is a
least-squares fit as it is, and one that has the same bytes for a budget, which is made larger. KL and gain are those of
`benchmarks.distillation`. Rows that were made before are taken from --results, so that the table can grow.

    python -m benchmarks.shrinkage [CASE ...] [--material FOLDER] [--results FILE] [--write]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.methods import REFERENCE
from adaptzip.reports.evaluation import evaluate
from adaptzip.reports.sizes import update_bytes
from adaptzip.restoring.reconstruction import reconstruct
from benchmarks import page, results
from benchmarks.distillation import CASES, Case

ERRORS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "trec": {REFERENCE: (0.3, 0.4, 0.55), "loretta": (0.5,)},
    "lists": {REFERENCE: (0.4, 0.55, 0.7), "loretta": (0.6,)},
    "langid": {REFERENCE: (0.3, 0.55, 0.7)},
    "stories": {REFERENCE: (0.3, 0.5)},
}
"""Relative errors of the fits, by case and method."""
TEXTS = 500
HEAD = [
    "adapter",
    "method",
    "bytes",
    "error: fit",
    "error: budget",
    "KL: fit",
    "KL: budget",
    "gain: fit",
    "gain: budget",
]


@dataclass(frozen=True)
class Row:
    """One size of one adapter: what is nearest to it, and what `--budget` makes.

    Attributes:
        asked: error of the fit.
        bytes: of the update, without header and extras.
    """

    case: str
    method: str
    asked: float
    bytes: int
    fit_error: float
    error: float
    fit_kl: float
    kl: float
    fit_gain: float
    gain: float


def measure(name: str, case: Case, method: str, asked: float) -> Row:
    """Make and ask both."""
    teacher = case.teacher if isinstance(case.teacher, Adapter) else adaptzip.read(case.teacher)
    fit = adaptzip.compress(teacher, to=method, max_error=asked)
    budget = adaptzip.compress(teacher, to=method, budget=f"{writer.size(fit)}B")
    students = {"fit": reconstruct(fit), "budget": reconstruct(budget)}
    found = evaluate(case.base, teacher, students, case.test[:TEXTS], batch=64, max_tokens=case.max_tokens)
    kl = {row: found.rows[row].kl or 0.0 for row in students}
    gain = {row: found.gain(row) or 0.0 for row in students}
    errors = {row: made.provenance.relative_error for row, made in (("fit", fit), ("budget", budget))}
    size = update_bytes(writer.sizes(budget))
    return Row(
        name, method, asked, size, errors["fit"], errors["budget"], kl["fit"], kl["budget"], gain["fit"], gain["budget"]
    )


def _asked(name: str) -> list[tuple[str, float]]:
    return [(method, error) for method, errors in ERRORS[name].items() for error in errors]


def table(rows: Sequence[Row]) -> str:
    """A row for each size of each adapter."""
    lines = [
        [
            row.case,
            row.method,
            f"{row.bytes:,}",
            f"{row.fit_error:.3f}",
            f"{row.error:.3f}",
            f"{row.fit_kl:.3f}",
            f"{row.kl:.3f}",
            f"{100 * row.fit_gain:.1f} %",
            f"{100 * row.gain:.1f} %",
        ]
        for row in rows
    ]
    return page.table(HEAD, lines)


def main() -> None:
    """Make what is asked for, print the table, and write it where that is asked for."""
    arguments = results.parser(__doc__, "case", ERRORS).parse_args()
    case_of = cache(lambda name: CASES[name](arguments.material))
    asked = [(name, method, error) for name in arguments.chosen for method, error in _asked(name)]
    done = results.grown(
        arguments.results,
        Row,
        lambda row: (row.case, row.method, row.asked),
        asked,
        lambda one: measure(one[0], case_of(one[0]), *one[1:]),
    )
    rows = [done[one] for one in asked]
    print(table(rows), flush=True)
    if arguments.write:
        page.put("shrinkage", table(rows))


if __name__ == "__main__":
    main()
