"""`adaptzip methods`: what can be written after `--to`."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptzip.cli import _completing as completing
from adaptzip.cli import _options as options
from adaptzip.cli import _text as text
from adaptzip.cli._output import Output

if TYPE_CHECKING:
    from adaptzip.cli._settings import Setting
    from adaptzip.core.family import AnyFamily


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A method, to list its options.",
            metavar="NAME",
            autocompletion=completing.method_names,
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the methods, or describe one.

    Writes nothing.

    \b
    Examples:
      adaptzip methods
      adaptzip methods svd
    """
    if name is None:
        _list_all(Output(as_json))
    else:
        _describe(name, Output(as_json))


def _list_all(output: Output) -> None:
    from adaptzip.methods import names

    rows = [{"name": name, "summary": _summary(name)} for name in names()]
    cells = [[row["name"], row["summary"]] for row in rows]
    output.result({"methods": rows}, lambda: text.table(cells, left=(0, 1)))


def _describe(name: str, output: Output) -> None:
    from adaptzip.cli._settings import settings_of
    from adaptzip.methods import load

    method = load(name)
    settings = settings_of(method.config_type)
    output.result(
        _about(method) | {"options": [setting.as_dict() for setting in settings]},
        lambda: "\n".join(
            [
                text.fields((key, str(value)) for key, value in _about(method).items()),
                "\noptions, each as -s NAME=VALUE" if settings else "it has no options",
                text.fields((f"  {setting.name}", _said(setting)) for setting in settings),
            ]
        ),
    )


def _said(setting: Setting) -> str:
    default = "none" if setting.default is None else str(setting.default).lower()
    what = f"{setting.kind}, default {default}"
    return f"{setting.meaning}  [{what}]" if setting.meaning else what


def _about(method: AnyFamily) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "version": method.version,
        "paper": method.paper,
    }


def _summary(name: str) -> str:
    """The `summary` of a built-in method, read from its source: importing the method would load torch."""
    spec = find_spec(f"adaptzip.methods.{name.replace('-', '_')}")
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and _assigns(node, "summary"):
            return str(node.value.value)
    return ""


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
