"""The file that `adaptzip plan -o` writes, people edit, and `adaptzip compress --plan` follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptzip.core.budget import Budget
from adaptzip.core.effort import EFFORTS, Effort
from adaptzip.errors import FormatError, UsageError, naming
from adaptzip.files import strict_json
from adaptzip.files.atomic import atomic_file
from adaptzip.files.regular import open_regular
from adaptzip.fitting.allocation import check_allocation
from adaptzip.fitting.forecasts import Forecast, PlanReport
from adaptzip.fitting.rate_control import DEFAULT_ERROR
from adaptzip.methods import load, names

SCHEMA = 1
_MOST_BYTES = 2**26
_SHOWN = ("predicted", "table", "refused")
"""Keys that say what was predicted; `compress` looks at none of them."""
_KEYS = ("schema", "method", "options", "budget", "max_error", "effort", "allocate", "ranks", *_SHOWN)


@dataclass(frozen=True)
class PlanFile:
    """What a plan tells `compress` to do.

    Attributes:
        method: its name.
        options: the method's own, as JSON values.
        budget, max_error, effort, allocate: as for `compress`.
        ranks: the largest rank of each module, those that are not named being left out; None leaves it to the method.
    """

    method: str
    options: Mapping[str, Any]
    budget: str | None
    max_error: float | None
    effort: Effort
    allocate: str | None
    ranks: Mapping[str, int] | None


def write_plan(
    path: str | Path,
    report: PlanReport,
    *,
    budget: str | None,
    max_error: float | None,
    effort: Effort = "default",
    allocate: str | None = None,
    force: bool = False,
) -> None:
    """Write the best row of a plan as a file for `compress --plan`, with the whole table for information.

    Args:
        budget, max_error, effort, allocate: as they were asked for; another effort may find another start. Without
            budget and error, the error that such a plan is made for is written down.

    Raises:
        CheckFailedError: if no method can do what was asked.
        OutputError: if the file exists without `force`, or cannot be written.
    """
    best = report.best
    values = {
        "schema": SCHEMA,
        "method": best.method,
        "options": dict(best.options),
        "budget": budget,
        "max_error": DEFAULT_ERROR if budget is None and max_error is None else max_error,
        "effort": effort,
        # Ranks that are written down are already allocated.
        "allocate": None if best.ranks else allocate,
        "ranks": dict(best.ranks) if best.ranks else None,
        "predicted": {key: value for key, value in row(best).items() if key not in ("method", "options")},
        "table": [row(forecast) for forecast in report.forecasts],
        "refused": [{"method": refusal.method, "reason": refusal.reason} for refusal in report.refusals],
    }
    with atomic_file(path, force) as handle:
        handle.write(json.dumps(values, indent=2).encode() + b"\n")


def row(forecast: Forecast) -> dict[str, Any]:
    """A forecast as JSON values, without its ranks."""
    return {
        "method": forecast.method,
        "options": dict(forecast.options),
        "bytes": forecast.bytes,
        "parameters": forecast.parameters,
        "relative_error": forecast.relative_error,
    }


def read_plan(path: str | Path) -> PlanFile:
    """Read and check a plan; a method's options are checked by name, and where they are used by value.

    Raises:
        UsageError: if it is no plan; the message names the key.
        OSError: if the file can't be read.
    """
    with open_regular(Path(path)) as handle:
        content = handle.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{path}: larger than {_MOST_BYTES} bytes, which is no plan")
    try:
        values = strict_json.parse(content, str(path))
    except FormatError as error:
        raise UsageError(str(error), hint="make it again with `adaptzip plan -o`") from error
    return _checked(path, values)


def check_modules(path: str | Path, ranks: Mapping[str, int], modules: Mapping[str, Any]) -> None:
    """Refuse a plan whose ranks name modules that the adapter does not have.

    Raises:
        UsageError: if one is unknown.
    """
    unknown = sorted(ranks.keys() - modules.keys())
    if unknown:
        raise UsageError(
            f"{path}: ranks names the module {unknown[0]!r}, which the adapter does not have",
            hint="make the plan from this adapter, or leave the module out",
        )


def _checked(path: str | Path, values: Any) -> PlanFile:
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a JSON object", hint="make it with `adaptzip plan -o`")
    unknown = sorted(values.keys() - set(_KEYS))
    if unknown:
        raise UsageError(f"{path}: the key {unknown[0]!r} is unknown", hint=f"keys: {', '.join(_KEYS)}")
    if values.get("schema", SCHEMA) != SCHEMA:
        raise UsageError(f"{path}: schema is {values['schema']!r}, expected {SCHEMA}", hint="make the plan again")
    method = _typed(path, values, "method", str, "a method's name")
    if method is None or method not in names():
        raise UsageError(f"{path}: method is {method!r}, expected one of {', '.join(names())}")
    options = _typed(path, values, "options", dict, "an object") or {}
    budget = _typed(path, values, "budget", str, "a size such as 64KiB or null")
    max_error = _typed(path, values, "max_error", (int, float), "a number between 0 and 1 or null")
    effort = _typed(path, values, "effort", str, f"one of {', '.join(EFFORTS)}") or "default"
    if effort not in EFFORTS:
        raise UsageError(f"{path}: effort is {effort!r}, expected one of {', '.join(EFFORTS)}")
    allocate = _typed(path, values, "allocate", str, "an allocation or null")
    with naming(path, UsageError):
        Budget.of(budget)
        if allocate is not None:
            check_allocation(allocate)
    if max_error is not None and not 0 < max_error < 1:
        raise UsageError(f"{path}: max_error is {max_error}, expected a number between 0 and 1 or null")
    _check_options(path, method, options)
    return PlanFile(method, options, budget, max_error, effort, allocate, _ranks(path, values))


def _typed(path: str | Path, values: Mapping[str, Any], key: str, kind: Any, words: str) -> Any:
    """A key's value, or None where it is null or left out."""
    value = values.get(key)
    if value is None or isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise UsageError(f"{path}: {key} is {json.dumps(value)[:60]}, expected {words}")


def _check_options(path: str | Path, method: str, options: Mapping[str, Any]) -> None:
    known = load(method).config_type.__dataclass_fields__
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise UsageError(
            f"{path}: options has {unknown[0]!r}, which the method {method} does not know",
            hint=f"its options: {', '.join(known)}" if known else "it has no options",
        )


def _ranks(path: str | Path, values: Mapping[str, Any]) -> dict[str, int] | None:
    ranks: dict[str, int] | None = _typed(path, values, "ranks", dict, "an object of whole numbers by module, or null")
    for name, rank in (ranks or {}).items():
        if type(rank) is not int or rank < 0:
            raise UsageError(f"{path}: ranks has {json.dumps(rank)} for {name!r}, expected a whole number from 0")
    return ranks
