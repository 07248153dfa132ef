"""What a merge does with a quantised base: refuse it, write it as floats, or write it quantised again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from adaptzip.errors import UsageError
from adaptzip.models.dequantising.opening import found_in
from adaptzip.models.folder import BaseModel, Quantised
from adaptzip.restoring.merging.plan import MergePlan
from adaptzip.restoring.merging.requantising import requantised
from adaptzip.restoring.merging.rounding import Ledger, measured

How = Literal["dequantised", "requantised"]
"""How the weights of a quantised base are written."""
OPTIONS: dict[How, str] = {"dequantised": "`dequantise=True`", "requantised": "`requantise=True`"}
"""The option that asks for each."""
_OPENED: dict[How | None, Quantised] = {None: "refused", "dequantised": "dequantised", "requantised": "decoded"}


def how_quantised(dequantise: bool, requantise: bool, safe: bool) -> How | None:
    """What is asked for, None for nothing.

    Raises:
        UsageError: if it cannot be had together.
    """
    if dequantise and requantise:
        raise UsageError("a model is written dequantised or requantised, not both", hint="leave one of the two out")
    if (dequantise or requantise) and safe:
        raise UsageError(
            "with safe_merge updates are rounded before they are added, and to a quantised base's dequantised weights "
            "they are added in float32",
            hint="leave safe_merge out: the sum is rounded once",
        )
    return "dequantised" if dequantise else "requantised" if requantise else None


def open_base(path: str | Path, how: How | None) -> BaseModel:
    """The base model as a merge takes it.

    Raises:
        BaseModelError, RefusedError: as `BaseModel.open`.
        UsageError: if nothing is quantised although something is asked for.
    """
    base = BaseModel.open(path, quantised=_OPENED[how])
    check_quantised(base, how)
    return base


def check_quantised(base: BaseModel, how: How | None) -> None:
    """Raises: UsageError: if a form is asked for that only quantised bases have, and nothing in this one is."""
    if how is not None and not any(map(found_in, base.shards)):
        raise not_quantised(base.path, how)


def not_quantised(path: str | Path, how: How) -> UsageError:
    """The error about a base of which a form is asked for that only quantised ones have."""
    return UsageError(f"{path}: is not quantised", hint=f"leave {OPTIONS[how]} out")


def prepared(plan: MergePlan, how: How | None, ledger: Ledger) -> MergePlan:
    """The plan of a merge into a base that `open_base` opened, which notes what rounding leaves.

    Raises:
        RefusedError: if the base's scheme is none that is written.
    """
    if how == "requantised":
        return requantised(plan, ledger)
    if how == "dequantised":
        # The base's own config.json tells of its quantisation.
        return measured(replace(plan, config=plan.base.config if plan.config is None else plan.config), ledger)
    return plan
