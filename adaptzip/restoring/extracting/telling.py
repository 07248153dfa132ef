"""What there is to say of an extraction that is no error."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adaptzip.core.adapter import Adapter
from adaptzip.errors import warn
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.extracting.pairing import Pairing


def warn_of_narrower(base: BaseModel, tuned: BaseModel, pairing: Pairing) -> None:
    """Say that a tuned model was rounded to fewer bits than its base has."""
    for part, places in pairing.parts:
        after, before = tuned.stored(part.place.tensor).dtype, base.stored(places[0].tensor).dtype
        if torch.finfo(after).eps > torch.finfo(before).eps:
            a, b = (str(dtype).removeprefix("torch.") for dtype in (after, before))
            _warn(f"{tuned.path}: {part.place.tensor} is {a}, the base's is {b}: rounding is part of the difference")
            return


def warn_of_missing(pairing: Pairing) -> None:
    """Say what only the base has."""
    if pairing.missing:
        _warn(
            f"the tuned model lacks {_listed(pairing.missing)}: merged into the base, the adapter leaves what is there"
        )


def warn_of_shared(base: BaseModel, pairing: Pairing, adapter: Adapter) -> None:
    """Say that the update of an embedding is for those that share its weight as well."""
    embeddings = {part.name for part, places in pairing.parts if places[0].tensor == base.input_embedding}
    if pairing.shared and embeddings & adapter.modules.keys():
        _warn(
            f"the embedding shares its weight with {_listed(pairing.shared)}: the update is right once it is merged, "
            "while PEFT without merging applies it to the embedding alone; kept whole, the embedding is right either "
            "way (`embeddings='whole'`)"
        )


def _warn(message: str) -> None:
    warn(message)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
