"""What can be told of a command line before anything heavy is imported: paths that are not there, and odd words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from glob import has_magic
from pathlib import Path
from typing import Any

from adaptzip.cli._combining import weighted
from adaptzip.cli._requests import AUTO, budget_text
from adaptzip.core.budget import Budget
from adaptzip.errors import CheckpointError
from adaptzip.files.presence import check_adapter
from adaptzip.methods import check_known
from adaptzip.models.hub import on_the_hub

_ADAPTERS = ("source", "sources", "teacher", "against", "a", "b", "adapters")
"""What commands call the adapters that they read; several may have weights behind a colon."""
_BUDGETS = ("budget", "params", "bytes_")


def checked_early(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that refuses at once what it would refuse after seconds of importing."""

    @wraps(command)
    def run(**values: Any) -> Any:
        for name in _ADAPTERS:
            for path in _paths(values.get(name)):
                check_source(path)
        several = values.get("paths") or []
        if len(several) == 1 and not has_magic(str(several[0])):
            check_source(several[0])
        _check_budgets(*(values.get(name) for name in _BUDGETS))
        for method in _words(values.get("to")):
            if method != AUTO:
                check_known(method)
        return command(**values)

    return run


def check_source(path: Path) -> None:
    """Refuse a path where nothing is, and which names nothing on the Hub."""
    if on_the_hub(path, CheckpointError) is None:
        check_adapter(path)


def _check_budgets(budget: Any, parameters: Any, size: Any) -> None:
    for one in _words(budget):
        Budget.parse(one)
    several = (parameters or "").split(",")
    if len(several) > 1:
        for one in several:
            Budget.parse(one, "parameters")
    elif not isinstance(budget, list):
        budget_text(budget, parameters, size)


def _paths(value: object) -> Iterable[Path]:
    if isinstance(value, Path):
        return [value]
    words = [str(word) for word in value] if isinstance(value, list) else []
    return weighted(words)[0]


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
