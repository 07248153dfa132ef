"""Benchmarks that take long: which parts to run, and a file of results that their tables grow from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")
Key = TypeVar("Key")

MATERIAL = Path(__file__).parent.parent / ".." / "shared" / "material"


def parser(description: str | None, noun: str, names: Collection[str]) -> argparse.ArgumentParser:
    """The options that these benchmarks share; `chosen` are the parts named on the command line, or all.

    Args:
        noun: what a part is called.
    """
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument(
        "chosen",
        nargs="*",
        metavar=noun.upper(),
        action=_Among,
        names=names,
        default=list(names),
        help=f"among {', '.join(names)} (default: all)",
    )
    found.add_argument("--material", type=Path, default=MATERIAL)
    found.add_argument("--results", type=Path, help="a file that runs are added to and read from")
    found.add_argument("--write", action="store_true", help="write docs/benchmarks.md, the tables that are complete")
    return found


class _Among(argparse.Action):
    """Names among some; argparse's own choices refuse that there are none."""

    def __init__(self, *words: Any, names: Collection[str], **options: Any) -> None:
        super().__init__(*words, **options)
        self.names = names

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        unknown = sorted(set(values) - set(self.names))
        if unknown:
            parser.error(f"no {str(self.metavar).lower()} {unknown[0]!r}; there are {', '.join(self.names)}")
        setattr(namespace, self.dest, values or list(self.names))


def read(path: Path | None, kind: Callable[..., Row]) -> list[Row]:
    """The runs in a file of results, made of what each line names; none where there is no such file."""
    if path is None or not path.exists():
        return []
    return [kind(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def add(path: Path | None, row: Any) -> None:
    """Add a run, a dataclass, to a file of results if there is one."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def grown(
    path: Path | None,
    kind: Callable[..., Row],
    key: Callable[[Row], Key],
    asked: Iterable[Key],
    make: Callable[[Key], Row],
) -> dict[Key, Row]:
    """All runs by their keys: those in a file of results, and those asked for that it lacks, made and added to it."""
    done = {key(row): row for row in read(path, kind)}
    for one in asked:
        if one not in done:
            done[one] = make(one)
            add(path, done[one])
    return done
