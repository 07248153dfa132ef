"""What every command goes through, of the program and of its groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer

from adaptzip.cli._allowing import allowing_large
from adaptzip.cli._bases import with_bases
from adaptzip.cli._early import checked_early
from adaptzip.cli._panels import PanelledCommand


def register(app: typer.Typer, commands: Iterable[Callable[..., Any]]) -> None:
    """Add commands by their functions' names: checked early, with what is on the Hub fetched, and limits lifted where
    that is asked for."""
    for command in commands:
        app.command(command.__name__, cls=PanelledCommand)(allowing_large(checked_early(with_bases(command))))
