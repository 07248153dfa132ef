"""Texts of which no token counts: left out with a count, and refused where there are no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adaptzip.errors import CheckFailedError, warn
from adaptzip.models.texts.encoding import Encoded


def counting(found: Sequence[Encoded], longest: int, is_cut: Callable[[], bool], hint: str) -> list[Encoded]:
    """What has a token that counts, with a warning that says how many texts have none.

    Args:
        found: texts as they were encoded; without ids where nothing counts.
        longest: most tokens of a text.
        is_cut: whether there are completions, all of which are longer to reach than that.
        hint: what to do where completions begin later than that.

    Raises:
        CheckFailedError: if nothing is left.
    """
    kept = [encoded for encoded in found if encoded.ids]
    if not kept and is_cut():
        raise CheckFailedError(f"no completion begins within {longest} tokens", hint=hint)
    if not kept:
        raise CheckFailedError("none of the texts has a token", hint="give texts that are not empty")
    if len(kept) < len(found):
        warn(
            f"{len(found) - len(kept)} of {len(found)} texts have no token that counts within {longest}, and are left "
            "out"
        )
    return kept
