"""Packages that a guide shows: modules, each in a block that begins with its file's name, and their entry points."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from checks.markdown import Block, Page
from tests.cases.plugging import installed

_FILE = re.compile(r"# (\w+)\.py\n")


def is_module(block: Block) -> bool:
    """Whether a block is a file of its own."""
    return block.language == "python" and _FILE.match(block.text) is not None


@cache
def module_of(page: Page, name: str) -> ModuleType:
    """A module that a guide shows."""
    text = next(b.text for b in page.blocks if is_module(b) and b.text.startswith(f"# {name}.py\n"))
    module = ModuleType(name)
    exec(compile(text, f"{page.path.name}:{name}.py", "exec"), module.__dict__)
    return module


@contextmanager
def installed_package(page: Page, folder: Path) -> Iterator[None]:
    """While this lasts, what a guide shows of a package is installed, but for its tests."""
    tables = [tomllib.loads(block.text) for block in page.blocks if block.language == "toml"]
    groups = [table["project"]["entry-points"] for table in tables if "entry-points" in table.get("project", {})]
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for number, group in enumerate(groups):
            for name, points in group.items():
                for place in points.values():
                    module = place.partition(":")[0]
                    patch.setitem(sys.modules, module, module_of(page, module))
                stack.enter_context(installed(folder / str(number), points, name))
        yield
