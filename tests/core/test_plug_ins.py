"""Whose code a module is."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptzip.core import plug_ins
from adaptzip.errors import UsageError
from tests.cases.plugging import TOYS, installed


def test_the_owner_of_a_module_is_the_package_that_brings_something(tmp_path: Path) -> None:
    assert plug_ins.owner(["tests.cases.sixth_method", "adaptzip.core"]) is None
    with installed(tmp_path / "site"):
        found = plug_ins.owner(["adaptzip.core", "tests.cases.sixth_method"])
    assert found is not None
    assert found.value in TOYS.values()


def test_this_package_owns_nothing_of_others(tmp_path: Path) -> None:
    with installed(tmp_path / "site", {"own": "adaptzip.methods.svd:METHOD"}):
        assert plug_ins.owner(["adaptzip.core.method"]) is None


def test_two_packages_that_bring_one_name_are_refused(tmp_path: Path) -> None:
    with (
        installed(tmp_path / "one", {"same": TOYS["sixth"]}),
        installed(tmp_path / "two", {"same": TOYS["seventh"]}),
        pytest.raises(UsageError, match="method 'same' is defined twice: by "),
    ):
        plug_ins.plug_ins(plug_ins.METHODS, "method", ())
