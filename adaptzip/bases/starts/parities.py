"""Bits of MT19937's outputs as parities of the seeded state: all but the seeding is linear over bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adaptzip.core.mersenne import STATE

Words = NDArray[np.uint32]

_BACK = 397
_TWIST = np.uint32(0x9908B0DF)
_UPPER, _LOWER = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
_SAFE = STATE - _BACK
"""Words that are taken back at once: none of them is made of another."""


def parities(outputs: Sequence[int], masks: Sequence[int]) -> Words:
    """Which bits of the seeded state to add up, modulo 2, for some bits of some outputs.

    Args:
        outputs: indices of outputs, from 0.
        masks: of each, the bits whose parity is wanted.

    Returns:
        (outputs, 624): the parity of `state & row`, over all words, is that of `output & mask`, whatever the seed.
    """
    where, words = np.array(outputs), _untempered(np.array(masks, np.uint32))
    window = np.zeros((len(where), STATE + _SAFE), np.uint32)
    # The window slides down the stream: its upper part holds as many outputs, which are made of the words below them.
    for first in range(max(outputs) // _SAFE * _SAFE, -1, -_SAFE):
        (here,) = np.nonzero((where >= first) & (where < first + _SAFE))
        window[here, where[here] - first + STATE] ^= words[here]
        _take_back(window)
        if first:
            window[:, _SAFE:] = window[:, :STATE].copy()
            window[:, :_SAFE] = 0
    return np.ascontiguousarray(window[:, :STATE])


def _take_back(window: Words) -> None:
    """Put what stands in the upper part on the words that its words are made of."""
    made = window[:, STATE:]
    window[:, _BACK:STATE] ^= made
    mixed = (made << np.uint32(1)) ^ (np.bitwise_count(made & _TWIST) & np.uint8(1)).astype(np.uint32)
    window[:, :_SAFE] ^= mixed & _UPPER
    window[:, 1 : _SAFE + 1] ^= mixed & _LOWER


def _untempered(masks: Words) -> Words:
    """The bits of a word of the state that bits of its output are made of."""
    masks = masks ^ (masks << np.uint32(18))
    masks = masks ^ ((masks & np.uint32(0xEFC60000)) >> np.uint32(15))
    masks = masks ^ ((masks & np.uint32(0x9D2C5680)) >> np.uint32(7))
    return masks ^ (masks << np.uint32(11))
