"""Fixtures for the whole suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptzip.core import compiled

# What looks like a model's name on the Hub is looked for in a cache alone, unless a test serves it.
os.environ["HF_HUB_OFFLINE"] = "1"
# Nothing is kept in the user's cache.
os.environ["ADAPTZIP_CACHE"] = "off"


@pytest.fixture(autouse=True)
def unknown_starts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters that tests draw from small seeds are taken for others; tests marked `starts` find theirs."""
    if "starts" not in request.keywords:
        monkeypatch.setattr("adaptzip.fitting.starting.POPULAR", ())


@pytest.fixture(scope="session")
def material(request: pytest.FixtureRequest) -> Path:
    """The folder of real adapters beside the repository; tests that need it skip where it is absent."""
    folder = request.config.rootpath / ".." / "shared" / "material"
    if not folder.is_dir():
        pytest.skip("../shared/material is absent")
    return folder.resolve()


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if numba were not installed, from when it is asked for."""
    compiled.available.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    yield
    compiled.available.cache_clear()
