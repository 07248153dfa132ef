"""Keywords that the library's messages name: each is one of a public function, and an option of the command line."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import adaptzip
from adaptzip.cli._flags import KEYWORD, flags_of, in_flags, in_words_of
from adaptzip.cli.app import app
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.preparing import DataOptions
from adaptzip.distillation.running import carry_out
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import UsageError
from adaptzip.models.texts.examples import read_examples
from tests.cli.cli_cases import run

PACKAGE = Path(adaptzip.__file__).parent
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_COMMAND = re.compile(r"`(adaptzip|compress) [^`]*`")
_COMMANDS = ("restoring/merging/provenance.py", "restoring/merging/card.py", "restoring/upload_card.py")
"""What writes command lines for people to run, in files that are for them."""
_OTHERS = ("llama-gguf-split --merge", "--outtype f16", "var(--ink)", "var(--soft)", "var(--line)")
"""Options of other programs, and variables of style sheets."""


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """Every text outside the command line that is no docstring, with its place; what an f-string fills in as {}."""
    paths = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    own = {place: path for place, path in paths.items() if not place.startswith(("cli/", "testing/"))}
    return tuple(found for place, path in own.items() if place not in _COMMANDS for found in _texts_in(place, path))


def _texts_in(place: str, path: Path) -> Iterator[tuple[str, str]]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part != node}
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield f"{place}:{node.lineno}", "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner | bare:
            yield f"{place}:{node.lineno}", node.value


@cache
def keywords() -> frozenset[str]:
    """Of public functions, and of what some of them take."""
    functions = [getattr(adaptzip, name) for name in adaptzip.__all__]
    functions = [*filter(inspect.isfunction, functions), carry_out, read_examples]
    names = {name for function in functions for name in inspect.signature(function).parameters}
    return frozenset(
        names | {f.name for kind in (Schedule, DataOptions, LossWeights) for f in dataclasses.fields(kind)}
    )


def commands(command: Any) -> Iterator[Any]:
    inner = getattr(command, "commands", None)
    for one in [command] if inner is None else inner.values():
        yield from [one] if inner is None else commands(one)


def test_the_library_speaks_of_keywords() -> None:
    named = {found["name"] for _, text in texts() for found in KEYWORD.finditer(text)}
    assert {"base", "text_field", "as_", "options"} <= named <= keywords()
    program = typer.main.get_command(app)
    for command in commands(program):
        assert named <= flags_of(program, command).keys(), command.name


def test_the_library_speaks_of_no_options() -> None:
    for place, text in texts():
        plain = _COMMAND.sub("", text)
        for other in _OTHERS:
            plain = plain.replace(other, "")
        assert _FLAG.search(plain) is None, f"{place}: {text}"


def test_the_command_line_speaks_of_no_keywords() -> None:
    with_keywords = [(place, text) for place, text in texts() if KEYWORD.search(text)]
    program = typer.main.get_command(app)
    for command in commands(program):
        with in_words_of(typer.Context(command, parent=typer.Context(program))):
            for place, text in with_keywords:
                assert KEYWORD.search(in_flags(text)) is None, place


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("add `base=DIR`", "add --base DIR"),
        ("drop `pair_field=`", "drop --text-pair-field"),
        ("write `as_='peft'`, or `dialect='a b'`", "write --as peft, or --from a b"),
        ("use `lossless=True`", "use --lossless"),
        ("say `kind='causal'`", "say --task causal"),
        ("`options={'rank': N}` and `options={'uniform': True}`", "--set rank=N and --set uniform=true"),
        ("`options={'layers': 'a,b'}`", "--set layers=a,b"),
        ("`unheard=1`, `see this`", "`unheard=1`, `see this`"),
    ],
)
def test_keywords_become_options(said: str, shown: str) -> None:
    program: Any = typer.main.get_command(app)
    assert in_flags(said) == said
    with in_words_of(typer.Context(program.commands["compress"], parent=typer.Context(program))):
        assert in_flags(said) == shown
        with pytest.raises(UsageError, match=f"^{re.escape(shown)}$"):
            _raise(said)


def _raise(said: str) -> None:
    program: Any = typer.main.get_command(app)
    with in_words_of(typer.Context(program.commands["compress"], parent=typer.Context(program))):
        raise UsageError(said)


def test_one_error_in_both_words(adapter: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "a"}))
    with pytest.raises(UsageError) as caught:
        adaptzip.compress(adapter, calibration=rows)
    assert caught.value.hint == "add `base=DIR`"
    done = run("compress", adapter, "--calibration", rows, "-o", tmp_path / "a.adz", "--json")
    assert done.err.splitlines()[1] == "hint: add --base DIR"
    assert json.loads(done.err.splitlines()[2])["error"]["hint"] == "add --base DIR"
