"""A store of small adapters, some of which stand on one basis."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter
from adaptzip.core.compressed import Compressed
from adaptzip.files.trees import Tree
from adaptzip.fleet.store.index import Row
from adaptzip.testing.adapters import adapter

SHAPES = {"a.0.q": (12, 10, 3), "a.0.v": (8, 10, 3)}


def plain(seed: int = 0) -> Adapter:
    return adapter(SHAPES, seed=seed)


def add(tree: Tree, source: str | Path | Adapter | Compressed, name: str | None = None, **given: Any) -> Row:
    """`adaptzip.add_to_store` for the store of a tree."""
    return adaptzip.add_to_store(source, tree.location, name, **given)


@dataclass(frozen=True)
class Team:
    """Adapters that stand on one basis.

    Attributes:
        basis: the artefact, and `hash`, what adapters call it.
        files: a `.adz` of each adapter.
    """

    basis: Path
    hash: str
    files: tuple[Path, ...]


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Team:
    folder = tmp_path_factory.mktemp("team")
    adapters = [plain(seed) for seed in (1, 2)]
    reference = write_basis(build_basis(adapters), folder / "team.basis")
    files = []
    for number, one in enumerate(adapters):
        files.append(folder / f"member{number}.adz")
        adaptzip.compress(one, files[-1], to="lora-sb", basis=folder / "team.basis", max_error=0.2)
    return Team(folder / "team.basis", reference.hash, tuple(files))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that needs nothing beside it."""
    path = tmp_path_factory.mktemp("alone") / "alone.adz"
    adaptzip.compress(plain(3), path, start="none")
    return path
