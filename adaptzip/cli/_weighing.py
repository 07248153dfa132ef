"""`--base` with `--calibration`: how much an error in each module matters to the base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.adapter import Adapter
    from adaptzip.sensitivity import Sensitivity

_MOST_TEXTS = 256
"""Of more texts, this many are drawn."""


def sensitivities(
    adapter: Adapter | None, base: Path | None, calibration: Path | None
) -> Mapping[str, Sensitivity] | None:
    """How strongly the texts of `calibration` reach every module of an adapter on its base; None without texts.

    A squared error weighted with them is |(dW - dW') x|^2, summed over all inputs x of the module.

    Raises:
        UsageError: if there are texts and no base model or adapter.
    """
    if calibration is None:
        return None
    if base is None:
        raise UsageError("--calibration needs the base model", hint="add --base DIR")
    if adapter is None:
        raise UsageError("--calibration weighs an error, which needs the source", hint="add --against SRC")
    from adaptzip.calibration.examples import read_examples
    from adaptzip.calibration.models import sample_texts
    from adaptzip.calibration.moments import collect_moments

    return collect_moments(base, adapter, sample_texts(read_examples(calibration), _MOST_TEXTS, seed=0))
