"""`--base` with `--calibration`: how much an error in each module matters to the base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.adapter import Adapter
    from adaptzip.sensitivity import Sensitivity


def sensitivities(
    adapter: Adapter | None, base: Path | None, calibration: Path | None
) -> Mapping[str, Sensitivity] | None:
    """What the texts of `calibration` make of every module of an adapter on its base; None without texts.

    Raises:
        UsageError: if there are texts and no base model or adapter.
    """
    if calibration is None:
        return None
    if base is None:
        raise UsageError("--calibration needs the base model", hint="add --base DIR")
    if adapter is None:
        raise UsageError("--calibration weighs an error, which needs the source", hint="add --against SRC")
    from adaptzip.calibration import calibrate

    return calibrate(base, adapter, calibration).sensitivities
