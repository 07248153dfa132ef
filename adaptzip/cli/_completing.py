"""What shells complete: real choices alone, told without importing torch where that is possible."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adaptzip.core.plug_ins import DIALECTS, points_of

PORTABLE = "peft-portable"
_READERS = {"Reader", "ImageReader", "ImageDialect", "StateDict", "PeftMethod", "PeftLycoris", "AdaptiveRanks"}
_WRITERS = {"Writer", "SafetensorsWriter", "NativeWriter", "ImageDialect", "FunctionDialect"}
"""Classes that a dialect derives from where it reads, or writes."""


def method_names() -> list[str]:
    """Every method."""
    from adaptzip.methods import names

    return list(names())


def targets() -> list[str]:
    """What --to takes where the choice may be left open."""
    return [*method_names(), "auto"]


def written_dialects() -> list[str]:
    """What --as takes."""
    return sorted([*_dialects(_WRITERS), PORTABLE])


def read_dialects() -> list[str]:
    """What --from takes."""
    return sorted(_dialects(_READERS))


def settings(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """What -s takes of the method that --to names, each with what it means."""
    from adaptzip.cli._settings import settings_of
    from adaptzip.methods import REFERENCE, load, names

    method = ctx.params.get("to") or REFERENCE
    known = settings_of(load(method).config_type) if method in names() else ()
    return [(f"{setting.name}=", setting.meaning) for setting in known if setting.name.startswith(incomplete)]


def _dialects(kinds: set[str]) -> list[str]:
    """Names of the dialects whose class derives from one of these, as their sources say, and of plug-ins."""
    package = find_spec("adaptzip")
    folder = Path(str(package and package.origin)).parent / "checkpoints"
    places = (place for place in folder.iterdir() if not place.name.startswith("_"))
    files = (place / "__init__.py" if place.is_dir() else place for place in places)
    found = (_named(file, kinds) for file in files if file.suffix == ".py" and file.is_file())
    return [name for name in found if name] + [point.name for point in points_of(DIALECTS)]


def _named(file: Path, kinds: set[str]) -> str | None:
    """The name of a file's dialect, where it is of one of the kinds."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and kinds & {base.id for base in node.bases if isinstance(base, ast.Name)}:
            for line in node.body:
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant) and _is_name(line):
                    return str(line.value.value)
    return None


def _is_name(line: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "name" for target in line.targets)
