"""`--base` with `--calibration`: how much an error in each module matters to the base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adaptzip.errors import UsageError

if TYPE_CHECKING:
    from adaptzip.core.adapter import Adapter
    from adaptzip.core.sensitivity import Sensitivity

_MOST_TEXTS = 256
"""Of more texts, this many are drawn."""


def sensitivities(
    adapter: Adapter | None,
    path: Path | None,
    base: Path | None,
    calibration: Path | None,
    fields: Mapping[str, str | None],
) -> Mapping[str, Sensitivity] | None:
    """How strongly the texts of `calibration` reach every module of an adapter on its base; None without texts.

    Args:
        path: where the adapter was read from, whose tokeniser is taken if there is one.
        fields: where the texts have what (`_requests.text_fields`).

    A squared error weighted with them is |(dW - dW') x|^2, summed over all inputs x of the module.

    Raises:
        UsageError: if there are texts and no base model or adapter.
    """
    if calibration is None:
        return None
    if base is None:
        raise UsageError("--calibration needs the base model", hint="add --base DIR")
    if adapter is None or path is None:
        raise UsageError("--calibration weighs an error, which needs the source", hint="add --against SRC")
    from adaptzip.fitting.calibration.moments import collect_moments
    from adaptzip.models.live.running import sample_texts
    from adaptzip.models.texts.examples import read_examples
    from adaptzip.restoring.opening import tokeniser_folder

    texts = sample_texts(read_examples(calibration, **fields), _MOST_TEXTS, seed=0)
    return collect_moments(base, adapter, texts, tokeniser=tokeniser_folder(path))
