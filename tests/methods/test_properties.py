"""Every method on adapters of thousands of modules; those of odd shapes are in `adaptzip.testing`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import adaptzip
from adaptzip.errors import CheckFailedError
from adaptzip.testing.adapters import adapter, relative_error
from adaptzip.testing.trials import compress
from tests.cases.any_method import EVERY
from tests.cases.plugging import installed

COUNT = 2000


@pytest.fixture(autouse=True, scope="module")
def _outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("toys")):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_thousands_of_modules(name: str, tmp_path: Path) -> None:
    """2000 modules of four shapes within four minutes on a busy core; on a quiet one a quarter of that."""
    shapes = [(12, 8), (8, 12), (16, 8), (8, 8)]
    source = adapter({f"l.{i:04}": (*shapes[i % 4], 1 + i % 3) for i in range(COUNT)})
    began = time.perf_counter()
    try:
        compressed = compress(name, source, tmp_path / "x.adz")
    except CheckFailedError as failure:
        pytest.fail(str(failure))
    assert time.perf_counter() - began < 240
    assert len(compressed.chunks) == COUNT
    after = adaptzip.reconstruct(tmp_path / "x.adz")
    assert relative_error(source, after) == pytest.approx(compressed.provenance.relative_error, rel=2e-3)
