"""The examples in the docstrings of what is public run as written, on a small adapter and its model."""

from __future__ import annotations

import doctest
import shutil
from abc import ABC
from pathlib import Path
from typing import Protocol

import pytest
import torch

import adaptzip
from checks.api_reference import Entry, every_entry, members
from tests.cases.evaluation_cases import classifier

PUBLIC = [one for entries in every_entry().values() for entry in entries for one in (entry, *members(entry))]
WITH_EXAMPLE = [entry for entry in PUBLIC if ">>>" in entry.docstring]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `my-adapter` and `base-model`."""
    folder = tmp_path_factory.mktemp("made")
    classifier(folder)
    return folder


@pytest.mark.parametrize("entry", WITH_EXAMPLE, ids=lambda entry: entry.path)
def test_the_example_runs(entry: Entry, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names = {"adaptzip": adaptzip, "torch": torch}
    example = doctest.DocTestParser().get_doctest(entry.docstring, names, entry.path, None, None)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not said, "".join(said)


def test_every_name_of_the_package_has_one() -> None:
    """But for classes that others are to be derived from, which the guides show."""
    named = [entry for entry in every_entry()["adaptzip"] if hasattr(adaptzip, entry.name)]
    shown = {entry.name for entry in named if not {ABC, Protocol} & set(getattr(entry.value, "__mro__", ()))}
    assert shown <= {entry.name for entry in WITH_EXAMPLE}
