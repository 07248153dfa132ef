"""One llama and its adapter for all tests of a file."""

from __future__ import annotations

import pytest

from tests.cases.oracle_models import MIXED, Case, make


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Mixed ranks and scales, on a llama of two layers with fewer heads of keys than of queries."""
    return make(tmp_path_factory.mktemp("mixed"), r=4, lora_alpha=8, **MIXED)
