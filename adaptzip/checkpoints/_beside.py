"""Tensors that lie beside an adapter's own file: those that belong to it, and those that are left where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.checkpoints._config import WEIGHT_NAMES
from adaptzip.checkpoints._keys import PREFIX, unwrapped
from adaptzip.checkpoints._places import BESIDE, OTHER_NAMES, TRAINERS, WHOLE_MODELS, is_shard
from adaptzip.checkpoints._registry import weight_names
from adaptzip.errors import CheckpointError, warn
from adaptzip.files.weights import open_weights

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_STEP = re.compile(r"\d{7}_adapters\.safetensors")
"""What mlx-lm saves while it trains; its adapters.safetensors is as new as the newest of them."""
_START = "adapter_start.safetensors"
"""What `record_start` keeps of an adapter that was just made."""
_QUIET = {*BESIDE, *OTHER_NAMES, *WHOLE_MODELS, _START}


def files_beside(weights: Path) -> tuple[Path, ...]:
    """The files beside an adapter's weight file that belong to it; none beside a file of an unusual name."""
    usual = weights.name.startswith(WEIGHT_NAMES)
    return tuple(weights.parent / name for name in BESIDE if usual and (weights.parent / name).is_file())


def add_beside(weights: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of an adapter's weight file and of the files beside it that belong to it, by PEFT's keys.

    Raises:
        CheckpointError: if a file cannot be read, or two have different tensors under one key.
    """
    found = dict(tensors)
    for file in files_beside(weights):
        for key, tensor in _prefixed(open_weights(file).tensors).items():
            if key in found and not torch.equal(found[key], tensor):
                raise CheckpointError(
                    f"{file}: holds another {key} than {weights.name}",
                    hint="keep the one that was trained last, and move the other away",
                )
            found.setdefault(key, tensor)
    return found


def _prefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the keys that PEFT would give them; some programs strip PEFT's prefix or half of it."""
    tensors = {unwrapped(key): tensor for key, tensor in tensors.items()}
    bare = {key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIX)}
    halved = any(key.startswith("model.model.") for key in bare)
    named = {key.removeprefix("model.") if halved else key: tensor for key, tensor in bare.items()}
    whole = {key: tensor for key, tensor in tensors.items() if key.startswith(PREFIX)}
    return whole | {PREFIX + key: tensor for key, tensor in named.items()}


def warn_of_others(folder: Path, weights: Path) -> None:
    """Warn of weight files in an adapter's folder that are not read, as something trained may be in them."""
    others = [p.name for p in sorted(folder.iterdir()) if p.suffix in _WEIGHTS and p != weights and not _is_quiet(p)]
    if others:
        names = ", ".join(others[:4]) + (", ..." if len(others) > 4 else "")
        steps = all(_STEP.fullmatch(name) for name in others)
        why = "saved earlier in the same training" if steps else "which may hold something that was trained"
        warn(f"{folder}: {weights.name} is read, and {names} beside it, {why}, is left alone")


def _is_quiet(path: Path) -> bool:
    """Whether a file is known to hold nothing of an adapter."""
    known = path.name in _QUIET or path.name in weight_names()
    whole = path.name.startswith(("pytorch_model_fsdp", "consolidated"))
    return known or bool(TRAINERS.fullmatch(path.name)) or is_shard(path) or whole
