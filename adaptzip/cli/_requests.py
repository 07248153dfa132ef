"""What the options of `compress`, `plan` and `bench` say, as a request takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.fitting.requests import Request

AUTO = "auto"


def method_settings(method: str | None, items: list[str]) -> dict[str, Any]:
    """The options of a method that `-s key=value` sets.

    Raises:
        UsageError: if one is unknown or of the wrong type, or there is no one method to have it.
    """
    if not items:
        return {}
    from adaptzip.cli._settings import parse_settings, settings_of
    from adaptzip.methods import REFERENCE, load

    if method == AUTO:
        raise UsageError("-s sets an option of one method, and --to auto tries all", hint="name the method with --to")
    name = method or REFERENCE
    return parse_settings(items, name, settings_of(load(name).config_type))


def budget_text(budget: str | None, parameters: str | None, size: str | None) -> str | None:
    """What --budget, --params or --bytes says, as --budget would say it.

    Raises:
        UsageError: if two of them are given, or a number is none.
    """
    from adaptzip.core.budget import Budget

    given = {"--budget": budget, "--params": parameters, "--bytes": size}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{named[0]} and {named[1]} both limit the size", hint=f"drop {named[1]}")
    if parameters is not None:
        return f"{Budget.parse(parameters, 'parameters').amount:.0f}"
    return budget if size is None else f"{Budget.parse(size, 'bytes').amount:.0f}B"


def request_of(settings: Mapping[str, Any]) -> Request:
    """The request that these settings, its fields, make; the budget as it was written.

    Raises:
        UsageError: if they make no sense.
    """
    from adaptzip.core.budget import Budget
    from adaptzip.fitting.requests import Request

    return Request(**{**settings, "budget": Budget.of(settings.get("budget"))})


def text_fields(calibration: Path | None, text: str | None, pair: str | None, completion: str | None) -> dict[str, Any]:
    """Where the texts of --calibration have what, for a request or `read_examples`.

    Raises:
        UsageError: if a field is named and there are no texts.
    """
    given = {"--text-field": text, "--text-pair-field": pair, "--completion-field": completion}
    named = [option for option, value in given.items() if value is not None]
    if named and calibration is None:
        raise UsageError(
            f"{named[0]} was given without --calibration", hint=f"add --calibration FILE, or drop {named[0]}"
        )
    return {"text_field": text, "pair_field": pair, "completion_field": completion}


def planned_settings(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan file says, for a request.

    Args:
        given: options of the command line that a plan decides, by name; None where they were left out.

    Raises:
        UsageError: if the file is no plan, or an option of the command line contradicts it.
    """
    also = [name for name, value in given.items() if value is not None]
    if also:
        flag = f"--{also[0].replace('_', '-')}"
        raise UsageError(f"{flag} cannot be given with --plan, which decides it", hint=f"edit {path}, or drop {flag}")
    from adaptzip.cli._settings import check_values, settings_of
    from adaptzip.fitting.plan_files import read_plan
    from adaptzip.methods import load

    plan = read_plan(path)
    return {
        "to": plan.method,
        "budget": plan.budget,
        "max_error": plan.max_error,
        "effort": plan.effort,
        "allocate": plan.allocate,
        "ranks": plan.ranks,
        "options": check_values(plan.options, settings_of(load(plan.method).config_type), f"{path}: options"),
    }
