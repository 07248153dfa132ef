"""Texts of which no token counts: left out with a count, and refused where there are no others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptzip.errors import AdaptzipWarning, CheckFailedError
from adaptzip.models.texts.encoding import Encoded, Example

if TYPE_CHECKING:
    from adaptzip.models.live.loaded import LoadedModel


def counting(
    loaded: LoadedModel, examples: Sequence[Example], found: Sequence[Encoded], longest: int, hint: str
) -> list[Encoded]:
    """What has a token that counts, with a warning that says how many texts have none.

    Args:
        examples: what was encoded.
        found: what became of it; without ids where nothing counts.
        longest: most tokens of a text.
        hint: what to do where completions begin later than that.

    Raises:
        CheckFailedError: if nothing is left.
    """
    kept = [encoded for encoded in found if encoded.ids]
    if not kept and _is_cut(loaded, examples):
        raise CheckFailedError(f"no completion begins within {longest} tokens", hint=hint)
    if not kept:
        raise CheckFailedError("none of the texts has a token", hint="give texts that are not empty")
    if len(kept) < len(found):
        warnings.warn(
            f"{len(found) - len(kept)} of {len(found)} texts have no token that counts within {longest}, and are left "
            "out",
            AdaptzipWarning,
            stacklevel=3,
        )
    return kept


def _is_cut(loaded: LoadedModel, examples: Sequence[Example]) -> bool:
    """Whether there are completions, all of which are longer to reach than texts may be."""
    if loaded.kind != "causal" or loaded.score == "all":
        return False
    return any(example.completes and loaded.encode(example, None).ids for example in examples)
