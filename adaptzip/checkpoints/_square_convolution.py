"""loralib's convolution: the product of its factors, cut into rows of another length, is the update of the weight.

Hu et al. 2021, arXiv:2106.09685. Of a weight (out, in, k, k) A is (k * rank, in * k) and B (out * k, k * rank). In B A
the k rows of an output follow each other, and their numbers in turn are that output's of the weight, so that

    update (out, in * k * k) = B as (out, k * k * rank) times k copies of A along the diagonal

whose rank is at most rank * k * k.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unrolled(A: Tensor, B: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """A (k * k * rank, in * k * k) and B (out, k * k * rank) of the whole weight; None where the shapes fit none."""
    out, width, *kernel = shape
    k = kernel[0]
    square = set(kernel) == {k} and (k == 1 or len(kernel) == 2)
    if not square or A.shape[0] % k or tuple(A.shape[1:]) != (width * k,) or tuple(B.shape) != (out * k, A.shape[0]):
        return None
    copies = torch.zeros(k, len(A), k, A.shape[1], dtype=A.dtype)
    copies[range(k), :, range(k)] = A
    return copies.reshape(k * len(A), -1), B.reshape(out, -1)


def groups_of(A: Tensor, B: Tensor, shape: tuple[int, ...]) -> int:
    """How many groups of inputs a weight (out, in / groups, k, k) has, as its factors are as long as all inputs."""
    groups, rest = divmod(A.shape[1], shape[1] * shape[2])
    return groups if not rest and groups and B.shape[0] * groups == shape[0] * shape[2] else 1
