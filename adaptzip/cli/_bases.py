"""Base models that the command line names as on the Hub: fetched before a command begins, for every command alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from adaptzip.cli._output import Output
from adaptzip.models.hub import base_path, on_the_hub

_OPTIONS = ("base", "tuned")
"""What commands call the folder of a model that they read."""


def with_bases(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that is given folders where the user names models of the Hub."""

    @wraps(command)
    def run(**values: Any) -> Any:
        for name in _OPTIONS:
            if values.get(name) is not None:
                values[name] = _folder(values[name], quiet=bool(values.get("quiet")), bare=bool(values.get("as_json")))
        return command(**values)

    return run


def _folder(named: Path, *, quiet: bool, bare: bool) -> Path:
    """The folder of a model; what is fetched is told on stderr, with the bars of huggingface_hub on a terminal."""
    model = on_the_hub(named)
    if model is None:
        return named
    Output(quiet=quiet).note(f"fetching {model} from the Hub")
    if quiet or bare or not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    return base_path(named)
