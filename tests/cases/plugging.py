"""Installing the toy methods and the toy dialect for a test, as pip would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from adaptzip import checkpoints, methods
from adaptzip.testing import plugging

TOYS = {"sixth": "tests.cases.sixth_method:METHOD", "seventh": "tests.cases.seventh_method:METHOD"}
"""Two methods that the package does not bring, and where they are found."""

TOY_DIALECT = {"toy": "tests.cases.toy_dialect:DIALECT"}
"""A dialect that the package does not bring."""


@contextmanager
def installed(folder: Path, points: Mapping[str, str] = TOYS, group: str = methods.GROUP) -> Iterator[None]:
    """While this lasts, a distribution in `folder` brings the objects `points` of a group, by name."""
    with plugging.installed(folder, points, group):
        yield


@contextmanager
def installed_dialects(folder: Path, points: Mapping[str, str] = TOY_DIALECT) -> Iterator[None]:
    """The same of dialects."""
    with installed(folder, points, checkpoints.GROUP):
        yield
