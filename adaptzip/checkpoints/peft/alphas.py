"""Scales that a weight file brings itself: `<module>.alpha` beside `<module>.lora_A.weight`, and no configuration.

Exporters of Megatron's and of some image trainers save PEFT's keys so, often without PEFT's prefix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._keys import PREFIX, warn_of_spelling
from adaptzip.errors import CheckpointError, UsageError

_FACTOR = re.compile(r"(.+)\.lora_(?:[AB]\.weight|embedding_[AB])")
_ALPHA = ".alpha"


def has_alphas(source: Checkpoint) -> bool:
    """Whether a file without configuration has factors by PEFT's keys, with the prefix or without, and their alphas."""
    return source.config is None and any(f"{stem}{_ALPHA}" in source.tensors for stem in _stems(source.tensors))


def without_alphas(source: Checkpoint) -> tuple[Checkpoint, dict[str, float]]:
    """A file that `has_alphas` under PEFT's keys without its alphas, and the alphas by module name.

    Raises:
        CheckpointError: if a module has none, or one that is no number.
        UsageError: if the user gave one for all.
    """
    if source.alpha is not None:
        raise UsageError(
            f"`alpha={source.alpha:g}` was given, but {source.weights} has the alphas of its modules",
            hint="leave `alpha=` out",
        )
    stems = _stems(source.tensors)
    alphas = {stem.removeprefix(PREFIX): _alpha(source, f"{stem}{_ALPHA}") for stem in stems}
    own = {f"{stem}{_ALPHA}" for stem in stems}
    plain = {key: PREFIX + key.removeprefix(PREFIX) for key in source.tensors if key not in own}
    warn_of_spelling(plain, source.weights)
    tensors = {name: source.tensors[key] for key, name in plain.items()}
    return replace(source, tensors=tensors, header=None), alphas


def _stems(tensors: Mapping[str, Tensor]) -> list[str]:
    """The keys of modules with factors."""
    return sorted({found[1] for key in tensors if (found := _FACTOR.fullmatch(key)) is not None})


def _alpha(source: Checkpoint, key: str) -> float:
    if key not in source.tensors:
        raise CheckpointError(
            f"{source.weights}: has no {key}, but the alphas of other modules",
            hint="save the adapter again, or put its adapter_config.json beside it",
        )
    tensor = source.tensors[key]
    if tensor.numel() != 1 or not math.isfinite(tensor.item()):
        raise CheckpointError(
            f"{source.weights}: {key} is {list(tensor.shape)}, expected one finite number",
            hint="save the adapter again, or put its adapter_config.json beside it",
        )
    return float(tensor.item())
