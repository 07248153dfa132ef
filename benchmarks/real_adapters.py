"""Finding the adapters that a benchmark runs over."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import adaptzip
from adaptzip.fitting.requests import Request
from adaptzip.fitting.starting import known_frames
from adaptzip.reports.bounds import Components, components

MATERIAL = Path(__file__).parent.parent / ".." / "shared" / "material" / "adapters"


@dataclass(frozen=True, eq=False)
class RealAdapter:
    """One adapter of a run.

    Attributes:
        parts: its components; to a reader who knows where its A began, if that is found, and else as they are.
    """

    name: str
    path: Path
    adapter: adaptzip.Adapter
    parts: Components


def add_folders(parser: argparse.ArgumentParser) -> None:
    """The argument that every benchmark over real adapters takes."""
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        default=[MATERIAL],
        help="adapters, or folders of adapters (default: ../shared/material/adapters)",
    )


def find(folders: Iterable[Path], names: Iterable[str] = ()) -> list[RealAdapter]:
    """The readable adapters with a non-zero update, sorted by name; others are named on stderr.

    Args:
        folders: adapters, or folders that hold one adapter each.
        names: keep only these; all where empty.
    """
    wanted = set(names)
    found = {path.name: path for folder in folders for path in _candidates(folder)}
    return [real for name in sorted(found) if not wanted or name in wanted for real in _load(name, found[name])]


def _candidates(folder: Path) -> list[Path]:
    folder = folder.resolve()
    if not folder.exists():
        sys.exit(f"error: {folder}: no such folder\nhint: name a folder of PEFT adapters")
    is_adapter = folder.is_file() or any(folder.glob("adapter_model.*"))
    return [folder] if is_adapter else sorted(path for path in folder.iterdir() if path.is_dir())


def _load(name: str, path: Path) -> Iterator[RealAdapter]:
    try:
        adapter = adaptzip.read(path)
    except adaptzip.AdaptzipError as error:
        print(f"left out {name}: {str(error).replace(str(path), '').lstrip(':/ ')}", file=sys.stderr)
        return
    parts = components(adapter, known_frames(path, adapter, Request()))
    if parts.energy.sum() > 0:
        yield RealAdapter(name, path, adapter, parts)
    else:
        print(f"left out {name}: its update is zero", file=sys.stderr)
