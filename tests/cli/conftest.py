"""Fixtures for the command line: a fresh folder with a tiny adapter and its base model in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_cases import make_adapter, make_base, run


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "my-adapter")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base-model")


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter compressed with the default settings."""
    source = make_adapter(tmp_path_factory.mktemp("packed") / "my-adapter")
    assert run("compress", source, "-q").code == 0
    return source.with_name("my-adapter.adz").read_bytes()


@pytest.fixture
def archive(adapter: Path, packed: bytes) -> Path:
    """The compressed adapter, beside it."""
    path = adapter.with_name("my-adapter.adz")
    path.write_bytes(packed)
    return path
