"""What holds for the repository as a whole: names, rooms, start-up cost, pins, and what the Makefile says."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import adaptzip
from adaptzip import methods

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "scipy", "numpy", "constriction", "transformers", "peft", "pytest", "hypothesis"}


def modules_loaded_by(code: str) -> set[str]:
    """Top-level names that a fresh interpreter has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_import_loads_nothing_heavy() -> None:
    assert not HEAVY & modules_loaded_by("import adaptzip, adaptzip.errors, adaptzip.core.budget")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["compress", "--help"], ["methods"]])
def test_a_command_that_computes_nothing_loads_no_torch(words: list[str]) -> None:
    assert "torch" not in modules_loaded_by(f"from adaptzip.cli.app import main; assert main({words}) == 0")


EVERY_MODULE = """
import importlib, pkgutil, adaptzip
for found in pkgutil.walk_packages(adaptzip.__path__, "adaptzip."):
    # What runs on a GPU needs triton, which is no dependency.
    if not found.name.endswith(("__main__", ".kernels.cuda")):
        importlib.import_module(found.name)
"""


def test_every_module_can_be_imported() -> None:
    """And each of them first: by the contract "no-circles" none waits for another that waits for it."""
    done = subprocess.run([sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", adaptzip.__all__)
def test_no_submodule_hides_a_public_name(name: str) -> None:
    assert importlib.util.find_spec(f"adaptzip.{name}") is None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = adaptzip.nothing


def strings_of(path: Path) -> Iterator[str]:
    """String constants of a source file, without documentation and what a checkpoint dialect says of itself."""
    tree = ast.parse(path.read_text())
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            left_out.add(id(node.value))
        if isinstance(node, ast.ClassDef) and "checkpoints" in path.parts:
            said = [item for item in node.body if isinstance(item, ast.Assign) and _targets(item) <= {"name", "takes"}]
            left_out |= {id(part) for item in said for part in ast.walk(item)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


def _targets(assignment: ast.Assign) -> set[str]:
    return {target.id for target in assignment.targets if isinstance(target, ast.Name)}


def test_nothing_outside_the_folder_of_methods_names_one() -> None:
    """Dialects name the methods whose tensors they hold; the reference has a name of its own, `methods.REFERENCE`. PEFT
    has the same word for a way to combine adapters."""
    package = ROOT / "adaptzip"
    others = [name for name in methods.names() if name != methods.REFERENCE]
    assert len(others) >= 4
    words = re.compile("|".join(rf"(?<![\w-]){name}(?![\w-])" for name in others))
    named = [
        (str(path.relative_to(ROOT)), text)
        for path in sorted(package.rglob("*.py"))
        if package / "methods" not in path.parents and path != package / "core" / "combinations.py"
        for text in strings_of(path)
        if (text == methods.REFERENCE and "checkpoints" not in path.parts) or words.search(text)
    ]
    assert not named


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    wanted = {_distribution(line) for line in [*project["dependencies"], *extras]}
    assert wanted <= _pinned("constraints.txt") | _pinned("constraints-oracles.txt")
    assert not _pinned("constraints.txt") & _pinned("constraints-oracles.txt")
    apart = set(map(_distribution, project["optional-dependencies"]["oracles"]))
    assert wanted - apart <= _pinned("constraints.txt")


def _pinned(file: str) -> set[str]:
    pins = (line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#"))
    return {_distribution(line) for line in pins if "==" in line}


def _distribution(requirement: str) -> str:
    return re.split(r"[=<>!~\[ ;]", requirement)[0].lower().replace("_", "-")


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.18"\nexit 1\n')
    old.chmod(0o755)
    venv = tmp_path / "venv"
    done = subprocess.run(
        ["make", "-C", str(ROOT), f"PYTHON={old}", f"VENV={venv}", f"{venv}/.created"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"error: {old} is Python 3.9.18; adaptzip needs Python 3.11 or newer" in done.stderr
    assert "hint:" in done.stderr
    assert not venv.exists()


NO_ROOMS = {"cases", "formats", "hostile", "oracles"}
"""Folders of tests that stand for no room: what tests are made of, the file formats, which are written down, files that
are to hurt whoever reads them, and what other programs make of files."""


def rooms() -> set[Path]:
    """The folders of the package, as paths below it."""
    package = ROOT / "adaptzip"
    return {path.parent.relative_to(package) for path in package.glob("*/**/__init__.py")}


def test_tests_stand_in_the_rooms_that_they_test() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").glob("*/**/*.py")}
    known = {Path(*(part.removeprefix("_") for part in room.parts)) for room in rooms()}
    assert {folder for folder in folders if folder.parts[0] not in NO_ROOMS} <= known


def block_after(heading: str, number: int) -> list[str]:
    """The lines of a section's fenced block in CONTRIBUTING.md."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return section.split("```")[2 * number + 1].splitlines()[1:]


def test_the_tree_that_is_shown_is_the_tree_that_is_there() -> None:
    shown: list[Path] = []
    for line in block_after("How the code is laid out", 0)[1:]:
        match = re.fullmatch(r" *(\w+)/ +\S.*", line)
        assert match is not None, line
        depth = (len(line) - len(line.lstrip())) // 2
        above = next((room for room in reversed(shown) if len(room.parts) == depth - 1), Path())
        shown.append(above / match[1])
    assert set(shown) == rooms()
    assert len(shown) == len(set(shown))


def test_the_floors_that_are_shown_are_those_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (floors,) = (each for each in project["tool"]["importlinter"]["contracts"] if each["id"] == "floors")
    assert block_after("How the code is laid out", 1) == floors["layers"]


def test_the_schema_of_the_metadata_is_in_the_wheel() -> None:
    """Hatch takes every file below `packages` that Git does not ignore, unless it is told otherwise."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["adaptzip"]}
    assert project["tool"]["hatch"]["build"].keys() == {"targets"}
    assert not [line for line in (ROOT / ".gitignore").read_text().splitlines() if "json" in line or "adz" in line]
    assert (ROOT / "adaptzip" / "adz" / "container" / "metadata.schema.json").is_file()
    assert [path.parent.name for path in ROOT.glob("[a-z]*/**/metadata.schema.json")] == ["container"]


def late_imports(path: Path) -> list[str]:
    """What the functions of a file import of the package."""
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    found = [n for function in functions for n in ast.walk(function) if isinstance(n, ast.ImportFrom)]
    return [str(n.module) for n in found if str(n.module).startswith("adaptzip")]


def test_imports_are_late_for_the_start_of_the_command_line_alone() -> None:
    package = Path(adaptzip.__file__).parent
    late = {p.relative_to(package).as_posix(): late_imports(p) for p in package.rglob("*.py") if late_imports(p)}
    outside = {path: found for path, found in late.items() if not path.startswith("cli/")}
    # Names of methods are listed without torch, which their types need.
    needed = {"adaptzip.core.family", "adaptzip.core.function_method", "adaptzip.core.method"}
    # Kernels are compiled, which numba has to be loaded for, where they are first used.
    kernels = {path: found for path, found in outside.items() if all("kernels" in module for module in found)}
    coding = {f"adz/coding/{name}.py" for name in ("classes", "lanes", "levels", "on_gpu", "search")}
    others = {"bases/starts/threefry.py", "methods/_banks/choosing.py", "methods/_svd_rows.py"}
    assert kernels.keys() == {*coding, *others}
    assert {path: set(found) for path, found in outside.items() if path not in kernels} == {
        "methods/__init__.py": needed,
        # The program can be interrupted while it is being imported.
        "__main__.py": {"adaptzip.cli.app"},
        # A header is told without torch, where it needs no method to tell what it is of.
        "reports/archives.py": {"adaptzip.core.method", "adaptzip.methods"},
        # vLLM loads it in every process, whether there is a store or not.
        "serving/vllm.py": {
            *("adaptzip.core.budget", "adaptzip.files.trees", "adaptzip.serving.places"),
            *("adaptzip.serving.resolving", "adaptzip.serving.unpacking"),
        },
    }


def test_every_room_has_its_tests() -> None:
    rooms = {file.parent.name for file in Path(adaptzip.__file__).parent.glob("*/__init__.py")}
    assert rooms <= {file.relative_to(ROOT / "tests").parts[0] for file in (ROOT / "tests").rglob("test_*.py")}
