"""The tensors of a UniLoRA as PEFT keeps them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._native import NativeModule

TITLE = "PEFT's UniLoRA"
VECTOR = "base_model.unilora_theta_d"
"""Key of the vector, (d,)."""
PLACES, SCALES = "unilora_indices_", "unilora_scales_"


def file_tensors(modules: Mapping[str, NativeModule], rank: int, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What adapter_model.safetensors holds of modules that are not zero, without extras.

    The vector gets one number more, 1, which all of A stands at: its scales are A itself. Those of B have the signs.
    Modules of fewer than `rank` directions end in rows of A and columns of B whose scales are 0.
    """
    dtype = dtype or torch.float32
    theta = next(iter(modules.values())).tensors["theta"].float().reshape(-1)
    tensors = {VECTOR: torch.cat([theta, torch.ones(1)]).to(dtype)}
    for name, module in modules.items():
        A, places, scales = module.A.float(), module.tensors["B.places"], module.tensors["B.scales"]
        missing = rank - len(A)
        key = f"{PREFIX}{name}."
        tensors |= {
            f"{key}{PLACES}A": torch.full((rank, module.width), len(theta)),
            f"{key}{SCALES}A": pad(A, (0, 0, 0, missing)).to(dtype),
            f"{key}{PLACES}B": pad(places.long(), (0, missing)),
            f"{key}{SCALES}B": pad(scales.float(), (0, missing)).to(dtype),
        }
    return tensors
