"""Trained copies of modules that a file holds more than once, as where a whole state_dict() was saved."""

from __future__ import annotations

import torch

from adaptzip.core.adapter import Adapter
from adaptzip.errors import CheckpointError

_AGAIN = "save the adapter again with PEFT's save_pretrained"


def check_copies(adapter: Adapter, where: object) -> None:
    """Refuse a file that does not say which of several tensors it means.

    The same tensor may be there under several keys, as PEFT itself saves biases of trained heads.

    Args:
        adapter: as it was read, with its effects.
        where: what messages call the file.

    Raises:
        CheckpointError: if two keys bring different tensors for one of the base's, or an untrained original is there
            without a trained copy.
    """
    effects = adapter.resolved.extras
    first: dict[tuple[str, str], str] = {}
    for key, tensor in adapter.extras.items():
        effect = effects[key]
        if effect.role in ("ignore", "original"):
            continue
        other = first.setdefault((effect.role, effect.tensor), key)
        if not torch.equal(adapter.extras[other], tensor):
            raise CheckpointError(
                f"{where}: the keys {other} and {key} bring different tensors for {effect.tensor}", hint=_AGAIN
            )
    replaced = {tensor for role, tensor in first if role == "replace"}
    for key in adapter.extras:
        if effects[key].role == "original" and effects[key].tensor not in replaced:
            raise CheckpointError(
                f"{where}: {key} is the untrained original of a module whose trained copy is not there", hint=_AGAIN
            )
