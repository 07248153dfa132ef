"""Models and adapters that the command line names as on the Hub: fetched before a command begins, for all alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from adaptzip.cli._output import Output
from adaptzip.errors import CheckpointError
from adaptzip.models.hub import adapter_path, base_path, on_the_hub
from adaptzip.models.texts.data_sets import named_set

_OPTIONS = ("base", "tuned")
"""What commands call the folder of a model that they read."""
_TEXTS = ("data", "calibration")
"""What they call rows of data."""
ADAPTERS = ("source", "sources", "paths", "teacher", "against", "a", "b", "adapters", "modules_of", "holdout")
"""What they call adapters."""


def with_bases(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that is given folders where the user names models of the Hub."""

    @wraps(command)
    def run(**values: Any) -> Any:
        for name in _TEXTS:
            if values.get(name) is not None:
                _tell_of_rows(Path(values[name]), quiet=bool(values.get("quiet")), bare=bool(values.get("as_json")))
        fetch = partial(_folder, quiet=bool(values.get("quiet")), bare=bool(values.get("as_json")))
        for name in _OPTIONS:
            if values.get(name) is not None:
                values[name] = fetch(values[name], base_path)
        for name in ADAPTERS:
            found = values.get(name)
            if isinstance(found, Path):
                values[name] = fetch(found, adapter_path)
            elif isinstance(found, list):
                values[name] = [_one_of(one, fetch, alone=len(found) == 1 or name != "paths") for one in found]
        return command(**values)

    return run


def _one_of(word: str | Path, fetch: Callable[..., Path], *, alone: bool) -> str | Path:
    """One of several adapters; what is no name on the Hub, such as a path with a weight behind a colon, stays as it is.

    Args:
        alone: whether it is an error where it can't be fetched; else it is left to be told with the others.
    """
    if on_the_hub(word) is None:
        return word
    try:
        return type(word)(fetch(Path(word), adapter_path))
    except CheckpointError:
        if alone:
            raise
        return word


def _tell_of_rows(named: Path, *, quiet: bool, bare: bool) -> None:
    """Tell on stderr what rows are fetched, with the bars of datasets on a terminal."""
    rows = named_set(named)
    if rows is None:
        return
    Output(quiet=quiet).note(f"reading {rows} from the Hub")
    if quiet or bare or not sys.stderr.isatty():
        from datasets import disable_progress_bars

        disable_progress_bars()


def _folder(named: Path, path_of: Callable[[Path], Path], *, quiet: bool, bare: bool) -> Path:
    """The folder of a model or an adapter; what is fetched is told on stderr, with the bars of huggingface_hub on a
    terminal."""
    model = on_the_hub(named)
    if model is None:
        return named
    Output(quiet=quiet).note(f"fetching {model} from the Hub")
    if quiet or bare or not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    return path_of(named)
