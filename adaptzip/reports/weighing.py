"""How much an error in each module matters to the base model, by some texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adaptzip.core.adapter import Adapter
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import UsageError
from adaptzip.fitting.calibration.moments import collect_moments
from adaptzip.models.hub import base_path
from adaptzip.models.live.running import sample_texts
from adaptzip.models.texts.examples import read_examples
from adaptzip.restoring.opening import tokeniser_folder

_MOST_TEXTS = 256
"""Of more texts, this many are drawn."""


def weighed(
    adapter: Adapter | None,
    source: str | Path | Adapter | None,
    base: str | Path | None,
    calibration: str | Path | None,
    *,
    text_field: str | None = None,
    pair_field: str | None = None,
    completion_field: str | None = None,
) -> Mapping[str, Sensitivity] | None:
    """How strongly the texts of `calibration` reach every module of an adapter on its base; None without texts.

    A squared error weighted with them is |(dW - dW') x|^2, summed over all inputs x of the module.

    Args:
        source: where the adapter was read from, whose tokeniser is taken if there is one.
        text_field, pair_field, completion_field: where the texts have what.

    Raises:
        UsageError: if there are texts and no base model or adapter, or a field is named and there are no texts.
    """
    named = text_field or pair_field or completion_field
    if calibration is None:
        if named is not None:
            raise UsageError(f"the field {named!r} is named, and no texts that have it", hint="give `calibration=FILE`")
        return None
    if base is None:
        raise UsageError("`calibration=` needs the base model", hint="add `base=DIR`")
    if adapter is None:
        raise UsageError("`calibration=` weighs an error, which needs the source", hint="add `against=SRC`")
    fields = {"text_field": text_field, "pair_field": pair_field, "completion_field": completion_field}
    texts = sample_texts(read_examples(Path(calibration), **fields), _MOST_TEXTS, seed=0)
    folder = None if source is None or isinstance(source, Adapter) else tokeniser_folder(source)
    return collect_moments(base_path(base), adapter, texts, tokeniser=folder)
