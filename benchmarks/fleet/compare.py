"""What it takes to store a fleet: each method's bytes, errors and gains, beside plain files in the same bytes.

FLEET is a fleet that `benchmarks.fleet.train` or `benchmarks.fleet.synthetic` made. Shared parts are made of its
members; adapters that were left out meet them as new ones. Every file counts. Rows that --out has are not measured
again. Peers run in environments of their own; one that cannot be installed, or fails, is named with the reason.

    python -m benchmarks.fleet.compare FLEET [METHOD ...] --out FILE [--every N] [--write]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import page, results
from benchmarks.fleet import tables
from benchmarks.fleet.entries import Entry, by_kind, load
from benchmarks.fleet.made import Among, Made, plain
from benchmarks.fleet.methods import PLAIN, Method, methods
from benchmarks.fleet.rows import Row, error_in, read, told
from benchmarks.peers.environments import CACHE, Environments, PeerAbsentError, PeerFailedError

CLOSE = 0.01
"""Part of the bytes by which plain files may miss those that they stand beside before they are made once more."""


@dataclass(frozen=True)
class Run:
    """Rows of one kind.

    Attributes:
        path: the file of results.
        every: gains are measured of one adapter in so many.
    """

    kind: str
    entries: Sequence[Entry]
    path: Path
    every: int
    material: Path
    rows: list[Row] = field(default_factory=list)

    def measure(self, chosen: Sequence[Method]) -> None:
        """Add the rows that are not there yet."""
        wanted = [(one, setting) for one in chosen for setting in one.settings if not self._has(one, setting)]
        if not wanted:
            return
        among = Among.of(self.entries)
        for one, setting in wanted:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    self._add(among, one.name, one.told(setting), one.make(among, setting, Path(folder)))
            except (PeerAbsentError, PeerFailedError) as error:
                print(f"{self.kind}, {one.name}, {one.told(setting)}: {error}", file=sys.stderr)

    def _has(self, one: Method, setting: object) -> bool:
        return any((row.method, row.setting) == (one.name, one.told(setting)) for row in self.rows)

    def _add(self, among: Among, method: str, setting: str, made: Made) -> None:
        self._note(among, method, setting, made)
        if method != PLAIN and made.adapters and (beside := self._beside(among, made)):
            self._note(among, PLAIN, f"beside {method}, {setting}", beside, beside=f"{method}, {setting}")

    def _note(self, among: Among, method: str, setting: str, made: Made, beside: str = "") -> None:
        members, left_out = (
            told([entry for entry in self.entries if entry.left_out is out], among.all, made, self.material, self.every)
            for out in (False, True)
        )
        if members is None:
            print(f"{self.kind}, {method}, {setting}: no member can be held", file=sys.stderr)
            return
        counts = len(among.all), len(made.adapters), made.bytes, made.shared
        row = Row(self.kind, method, setting, *counts, members, left_out, made.error, beside)
        self.rows.append(row)
        results.add(self.path, row)
        print(tables.line(row), flush=True)

    def _beside(self, among: Among, made: Made) -> Made | None:
        """Plain files of the same adapters in the same bytes; None where those are fewer than any of the curve.

        Where they are more than any of the curve, plain files are left at its least error, in fewer bytes.
        """
        sources = {name: among.all[name] for name in made.adapters}
        aim = made.bytes * len(among.all) / len(sources)
        curve = {row.error: row.bytes for row in self.rows if row.error is not None and not row.beside}
        found = None
        for _ in range(2):
            error = error_in(curve, aim)
            if error is None:
                return None
            with tempfile.TemporaryDirectory() as folder:
                found = plain(sources, error, Path(folder))
            if abs(found.bytes / made.bytes - 1) < CLOSE or error == min(curve):
                break
            aim *= made.bytes / found.bytes
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print the tables."""
    options = _parser().parse_args(arguments)
    known = methods(Environments(options.environments))
    if unknown := sorted({*options.methods} - {*known}):
        print(f"error: no method {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = [one for name, one in known.items() if name == PLAIN or not options.methods or name in options.methods]
    for kind, run in _runs(options, read(options.out)).items():
        run.measure(chosen)
        text = tables.table(run.rows)
        print(f"\n{kind}\n\n{text}")
        if options.write:
            page.put(f"fleet-{kind}", text)
            tables.picture(kind, run.rows)
    return 0


def _runs(options: argparse.Namespace, rows: Sequence[Row]) -> Mapping[str, Run]:
    return {
        kind: Run(
            kind,
            entries,
            options.out,
            options.every,
            options.material,
            [row for row in rows if row.kind == kind],
        )
        for kind, entries in by_kind(load(options.fleet)).items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fleet", type=Path, help="the folder of a fleet")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="what stands beside plain files (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="a file that rows are added to and read from")
    parser.add_argument("--every", type=int, default=1, help="measure gains of one adapter in so many (default: all)")
    parser.add_argument("--material", type=Path, default=results.MATERIAL)
    parser.add_argument("--environments", type=Path, default=CACHE, help="where peers are (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its pictures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
