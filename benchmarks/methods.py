"""Every method that needs nothing but the adapter, at one number of stored parameters and at one size.

The error is the relative error |dW - dW'| / |dW| of the file as it was written and read again; bytes are those of the
whole file, of adapters without their extras. A method that can't do it is left out.

    python -m benchmarks.methods [FOLDER ...] [--write]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import adaptzip
from adaptzip import methods
from adaptzip.core.comparing import diff
from adaptzip.errors import CheckFailedError, RefusedError
from benchmarks import page
from benchmarks.real_adapters import RealAdapter, add_folders, find

BUDGETS = ("50k", "32KiB")
HEAD = ("adapter", "method", "budget", "parameters", "bytes", "relative error")


def measure(source: RealAdapter, method: str, budget: str) -> list[str] | None:
    """A row of the table; None where the method can't."""
    bare = replace(source.adapter, extras={})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.adz"
        try:
            made = adaptzip.compress(bare, path, to=method, budget=budget)
        except (CheckFailedError, RefusedError):
            return None
        error = diff(bare, adaptzip.reconstruct(path)).relative_error or 0.0
        return [
            source.name,
            method,
            budget,
            f"{made.provenance.parameters:,}",
            f"{path.stat().st_size:,}",
            f"{error:.3f}",
        ]


def rows(sources: Sequence[RealAdapter], results: Path | None) -> list[list[str]]:
    """All rows, each printed as soon as it is known; those in `results` are taken from there."""
    lines = results.read_text(encoding="utf-8").splitlines() if results is not None and results.exists() else []
    known = {tuple(row[:3]): row for row in map(json.loads, lines)}
    found = []
    for source in sources:
        for budget in BUDGETS:
            for method in methods.fittable():
                row = known.get((source.name, method, budget)) or measure(source, method, budget)
                if row is None:
                    continue
                print(*row, flush=True)
                found.append(row)
                if results is not None and tuple(row[:3]) not in known:
                    with results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
    return found


def main() -> None:
    """Measure, and write the table where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument("--results", type=Path, help="a file that rows are added to and taken from")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    table = page.table(HEAD, rows(find(arguments.folders), arguments.results))
    print(table)
    if arguments.write:
        page.put("methods", table)


if __name__ == "__main__":
    main()
