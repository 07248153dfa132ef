"""A stretch of MT19937's stream held in memory, to look for modules in: the past is let go as it moves on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.bases.starts.generators import BLOCK, NORMAL, UNIFORM, normal_numbers, uniform_numbers
from adaptzip.core.mersenne import Mersenne

CHUNK = 1 << 20
"""Numbers drawn at once."""
_KEPT = 6
_HALF_TURN = 1 << 23
_MAKERS: Mapping[str, Callable[[NDArray[np.uint32], int], NDArray[np.int64]]] = {
    UNIFORM: uniform_numbers,
    NORMAL: normal_numbers,
}


class Stream:
    """A seed's numbers, of which the chunks last drawn are kept.

    Args:
        first: numbers from 0 on that are kept for longest.
    """

    def __init__(self, seed: int, first: int = CHUNK) -> None:
        self._source = Mersenne(seed)
        self._kept = _KEPT + first // CHUNK
        self._chunks: dict[int, NDArray[np.uint32]] = {}

    def raw(self, first: int, count: int) -> NDArray[np.uint32] | None:
        """Raw numbers, or None where they were let go or passed over."""
        if first < 0:
            return None
        found = [self._chunk(k) for k in range(first // CHUNK, (first + count - 1) // CHUNK + 1)]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return None
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        at = first % CHUNK
        return joined[at : at + count]

    def numbers(self, generator: str, first: int, count: int, total: int) -> Tensor | None:
        """The first `count` whole numbers of a tensor of `total` as float32; None as `raw`.

        Of a normal tensor they are whole blocks, unless all are asked for.
        """
        drawn = count + BLOCK if generator == NORMAL and count == total else count
        raw = self.raw(first, drawn)
        if raw is None:
            return None
        return torch.from_numpy(_MAKERS[generator](raw, count).astype(np.float32))

    def signal(self, generator: str, first: int, count: int) -> Tensor | None:
        """What a tensor at any place here goes with, of standard deviation 1: its number, or the sign of its sine."""
        raw = self.raw(first, count)
        if raw is None:
            return None
        if generator == UNIFORM:
            low = torch.from_numpy(raw.view(np.int32)) & (2 * _HALF_TURN - 1)
            return low.float().sub_(_HALF_TURN).mul_(3**0.5 / _HALF_TURN)
        half = torch.from_numpy(raw.view(np.int32)) & _HALF_TURN
        return half.float().mul_(-2 / _HALF_TURN).add_(1)

    def _chunk(self, k: int) -> NDArray[np.uint32] | None:
        if k not in self._chunks:
            if k * CHUNK < self._source.position:
                return None
            self._source.skip_to(k * CHUNK)
            self._chunks[k] = self._source.draw(CHUNK)
            for old in sorted(self._chunks)[: -self._kept]:
                del self._chunks[old]
        return self._chunks[k]
