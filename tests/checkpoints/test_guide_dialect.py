"""The dialect that the guide shows passes the suite, by the class that the guide shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptzip.testing.dialects import DialectTests
from checks.markdown import read_page
from tests.cases.guide_packages import installed_package, module_of

PAGE = read_page(Path(__file__).parents[2] / "docs/guides/own-dialect.md")


def suite() -> type[DialectTests]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "adaptzip_pair_files", module_of(PAGE, "adaptzip_pair_files"))
        found: type[DialectTests] = module_of(PAGE, "test_adaptzip_pair_files").TestPairs
        return found


class TestPairs(suite()):  # type: ignore[misc]
    """The guide's class, with the guide's package installed."""

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with installed_package(PAGE, tmp_path_factory.mktemp("guide")):
            yield
