"""loralib's MergedLinear: a LoRA of some of the equal parts of a fused weight, such as q and v of q, k and v.

Hu et al. 2021, arXiv:2106.09685. Of n parts g are switched on (enable_lora, n times true or false). A (g * rank, in)
has the rows of each such part in turn, and B (g * out / n, rank) likewise; the update of the i-th of them is the
product of its own rows of B and of A, and all other parts of the weight's rows stay. That is what a convolution of
width 1 in g groups computes, as which the layers write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._config import shown
from adaptzip.checkpoints._parts import AGAIN
from adaptzip.errors import CheckpointError


def spread(A: Tensor, B: Tensor, enabled: Sequence[bool]) -> Tensor | None:
    """B (out, g * rank) of the whole weight, to A as it is, with zeros wherever a part has no factors.

    None where the shapes are none of a MergedLinear with these parts.
    """
    groups = sum(enabled)
    fits = A.ndim == B.ndim == 2 and groups and 0 not in (*A.shape, *B.shape)
    if not fits or A.shape[0] != groups * B.shape[1] or B.shape[0] % groups:
        return None
    rows, rank = B.shape[0] // groups, B.shape[1]
    whole = torch.zeros(len(enabled), rows, groups, rank, dtype=B.dtype)
    for group, part in enumerate(i for i, on in enumerate(enabled) if on):
        whole[part, :, group] = B[group * rows : (group + 1) * rows]
    return whole.reshape(len(enabled) * rows, groups * rank)


def switches(value: Any, where: object) -> tuple[bool, ...]:
    """A configuration's enable_lora.

    Raises:
        CheckpointError: if it is no list of true and false with a true in it.
    """
    if not isinstance(value, list) or not all(isinstance(on, bool) for on in value) or not any(value):
        raise CheckpointError(
            f"{where}: enable_lora is {shown(value)}, expected a list of true and false, one for each part", hint=AGAIN
        )
    return tuple(value)
