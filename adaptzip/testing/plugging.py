"""Installing methods and dialects of other packages for a test, as pip would: by a distribution's entry points."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from adaptzip import methods
from adaptzip.core.family import AnyFamily

_MODULE = "adaptzip_method_under_test"


@contextmanager
def installed(folder: Path, points: Mapping[str, str], group: str = methods.GROUP) -> Iterator[None]:
    """While this lasts, a distribution in `folder` brings the objects `points` of a group: by name, where each is."""
    # Of two distributions of one name, only the first on the path counts.
    distribution = f"toys_of_{folder.name}"
    about = folder / f"{distribution}-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {place}" for name, place in points.items()]
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    os.utime(folder)  # As an installer does that takes the old distribution away first.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@contextmanager
def registered(method: AnyFamily, folder: Path) -> Iterator[None]:
    """While this lasts, adaptzip knows a method by its name; as it is where it is built in or installed already."""
    if method.name in methods.names() and methods.load(method.name) is method:
        yield
        return
    module = ModuleType(_MODULE)
    module.METHOD = method  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, _MODULE, module)
        with installed(folder, {method.name: f"{_MODULE}:METHOD"}):
            yield
