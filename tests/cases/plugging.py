"""Installing methods and dialects of other packages for a test, as pip would: by a distribution's entry points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptzip import checkpoints, methods

TOYS = {"sixth": "tests.cases.sixth_method:METHOD", "seventh": "tests.cases.seventh_method:METHOD"}
"""Two methods that the package does not bring, and where they are found."""
TOY_DIALECT = {"toy": "tests.cases.toy_dialect:DIALECT"}
"""A dialect that the package does not bring."""


@contextmanager
def installed(folder: Path, points: Mapping[str, str] = TOYS, group: str = methods.GROUP) -> Iterator[None]:
    """While this lasts, a distribution in `folder` brings the objects `points` of a group, by name."""
    # Of two distributions of one name, only the first on the path counts.
    name = f"toys_of_{folder.name}"
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    lines = [f"{point} = {place}" for point, place in points.items()]
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@contextmanager
def installed_dialects(folder: Path, points: Mapping[str, str] = TOY_DIALECT) -> Iterator[None]:
    """The same of dialects."""
    with installed(folder, points, checkpoints.GROUP):
        yield
