"""What others make of an adapter beside adaptzip: at the same error, in the same bytes, and at the same gain.

Peers that are packages run in environments of their own, which are made of exact versions when they are first asked;
this program imports none of them. A peer that cannot be installed, or fails, is named with the reason. With --results
what was measured before is not measured again. --write writes docs/benchmarks.md if no contender lacks its rows.

    python -m benchmarks.peers [FOLDER ...] [--only PEER] [--environments FOLDER] [--results FILE] [--json] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import page, real_adapters
from benchmarks.peers.environments import CACHE, Environments
from benchmarks.peers.rows import Run, names
from benchmarks.peers.tables import tables

FIXTURES = Path(__file__).parents[2] / "fixtures"


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a peer is missing that was asked for."""
    options = _parser().parse_args(arguments)
    reals = real_adapters.find(options.folders or _usual())
    if not reals:
        print("error: no readable adapter with a non-zero update was found", file=sys.stderr)
        return 2
    run = Run(Environments(options.environments), options.results, options.only)
    run.measure(reals)
    found = tables(run, [real.name for real in reals])
    print(json.dumps([asdict(row) for row in run.rows], indent=2) if options.json else "\n".join(found.values()))
    for name, reason in run.absent.items():
        print(f"{name} is missing: {reason}", file=sys.stderr)
    if options.write and run.missing():
        print(f"nothing is written: rows of {', '.join(run.missing())} are missing", file=sys.stderr)
        return 1
    if options.write:
        for name, table in found.items():
            page.put(name, table)
    return int(bool(run.absent))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", type=Path, nargs="*", help="adapters, or folders of adapters (default: fixtures and shared material)"
    )
    parser.add_argument(
        "--only", action="append", default=[], choices=names(), metavar="PEER", help="measure this contender alone"
    )
    parser.add_argument(
        "--environments", type=Path, default=CACHE, help="where peers are installed (default: %(default)s)"
    )
    parser.add_argument("--results", type=Path, help="a file that measurements are added to and read from")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    return parser


def _usual() -> list[Path]:
    """The adapters of `fixtures/`, and of ../shared/material where it is."""
    own = sorted(path.parent for path in FIXTURES.glob("*/adapter_config.json"))
    return own + [real_adapters.MATERIAL] * real_adapters.MATERIAL.is_dir()


if __name__ == "__main__":
    sys.exit(main())
