"""Installing the toy methods for a test, as pip would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from adaptzip.testing import plugging

TOYS = {"sixth": "tests.cases.sixth_method:METHOD", "seventh": "tests.cases.seventh_method:METHOD"}
"""Two methods that the package does not bring, and where they are found."""


@contextmanager
def installed(folder: Path, points: Mapping[str, str] = TOYS) -> Iterator[None]:
    """While this lasts, a distribution in `folder` brings the methods `points`, by name."""
    with plugging.installed(folder, points):
        yield
