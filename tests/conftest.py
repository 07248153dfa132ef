"""Fixtures for the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def material(request: pytest.FixtureRequest) -> Path:
    """The folder of real adapters beside the repository; tests that need it skip where it is absent."""
    folder = request.config.rootpath / ".." / "shared" / "material"
    if not folder.is_dir():
        pytest.skip("../shared/material is absent")
    return folder.resolve()
