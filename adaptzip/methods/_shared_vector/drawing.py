"""What a seed decides of a module: places and signs of the numbers of B, and A where no frame is known.

All comes from MT19937, seeded with 2^16 times the seed and the module's number, modulo 2^32; the same on every machine
(formats/methods/unilora.md).
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from adaptzip.core.mersenne import Mersenne

_MODULES = 2**16


@lru_cache(maxsize=512)
def places(seed: int, number: int, entries: int, numbers: int) -> tuple[Tensor, Tensor]:
    """Where `entries` numbers stand in a vector of `numbers`, int64, and the sign of each, float32; both (entries,).

    Within a module every number stands equally often, to one. Modules of one size take turns: one begins where the one
    before it ends, so that this holds of all together.

    Args:
        number: the module's, which each draws for itself.
    """
    words = Mersenne(_MODULES * seed + number).draw(entries)
    order = np.argsort(words, kind="stable")
    first = number * entries % numbers
    return torch.from_numpy((order + first) % numbers), torch.from_numpy(_signs(words))


@lru_cache(maxsize=512)
def directions(seed: int, number: int, entries: int, rank: int, width: int) -> Tensor:
    """A (rank, width), float32, of a module without a frame: random signs over the root of the width.

    Args:
        entries: of B, for which numbers were drawn before.
    """
    stream = Mersenne(_MODULES * seed + number)
    stream.draw(entries)
    signs = torch.from_numpy(_signs(stream.draw(rank * width))).reshape(rank, width)
    return signs * torch.tensor(1.0 / sqrt(width), dtype=torch.float32)


def _signs(words: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """-1 for odd numbers, else 1."""
    return (1 - 2 * (words & 1).astype(np.float32)).astype(np.float32)
