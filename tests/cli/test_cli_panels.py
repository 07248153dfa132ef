"""Help in panels: nothing is lost, and nothing stands twice."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer

from adaptzip.cli import _panels as panels
from adaptzip.cli.app import app
from tests.cli.cli_cases import run

PROGRAM: Any = typer.main.get_command(app)
COMMANDS = {
    **{name: command for name, command in PROGRAM.commands.items() if not hasattr(command, "commands")},
    **{
        f"{group} {name}": command
        for group, commands in PROGRAM.commands.items()
        if hasattr(commands, "commands")
        for name, command in commands.commands.items()
    },
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_once(name: str) -> None:
    shown = run(*name.split(), "--help").out.partition("Examples:")[2]
    for param in COMMANDS[name].params:
        if param.param_type_name == "option":
            flag = next(flag for flag in param.opts if flag.startswith("--"))
            assert len(re.findall(rf"^  (-\w, )?{flag}(?![\w-])", shown, re.MULTILINE)) == 1, flag


def test_every_name_in_the_panels_is_an_option() -> None:
    known = {flag for command in COMMANDS.values() for param in command.params for flag in param.opts}
    named = [flag for flags in panels._PANELS.values() for flag in flags]
    assert {*named, *panels._WORKERS} <= known
    assert len(named) == len(set(named))


def test_short_help_has_one_list() -> None:
    assert "Options:" in run("methods", "--help").out
    long = run("compress", "--help").out
    assert "Options:" not in long
    assert long.index("Size and error:") < long.index("Reading:") < long.index("Writing:") < long.index("--verbose")
