"""Installing methods of other packages for a test, as pip would: by an entry point that a distribution declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptzip import methods

TOYS = {"sixth": "tests.cases.sixth_method:METHOD", "seventh": "tests.cases.seventh_method:METHOD"}
"""Two methods that the package does not bring, and where they are found."""


@contextmanager
def installed(folder: Path, points: Mapping[str, str] = TOYS) -> Iterator[None]:
    """While this lasts, a distribution in `folder` brings the methods `points`, by name."""
    about = folder / "toys-1.0.dist-info"
    about.mkdir(parents=True)
    lines = [f"{name} = {place}" for name, place in points.items()]
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join([f"[{methods.GROUP}]", *lines, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
