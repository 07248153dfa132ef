"""Fixtures for the command line: a fresh folder with a tiny adapter and its base model in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_cases import make_adapter, make_base, run


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "my-adapter")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base-model")


@pytest.fixture
def archive(adapter: Path) -> Path:
    """The adapter compressed with the default settings, beside it."""
    assert run("compress", adapter, "-q").code == 0
    return adapter.with_name("my-adapter.adz")
