"""MLX's random numbers: Threefry-2x32 keyed by a seed, a new key for each tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Key = tuple[int, int]

_PARITY = 0x1BD11BDA
_TURNS = ((13, 15, 26, 6), (17, 29, 16, 24))
_WORD = 0xFFFFFFFF


def first_key(seed: int) -> Key:
    """The key of a seed of 64 bits: its upper and lower half."""
    return seed >> 32 & _WORD, seed & _WORD


def keys(seed: int) -> Iterator[Key]:
    """The keys of the tensors that are drawn after a seed, without end."""
    state = first_key(seed)
    while True:
        state, key = _split(state)
        yield key


def bits(key: Key, count: int) -> Words:
    """The `count` numbers of 32 bits of a key.

    Counters run over both words at once: the k-th hash gives number k and number k + ceil(count / 2). Where the count
    is odd, the middle one is hashed with 0 in the second word.
    """
    half = (count + 1) // 2
    low = np.arange(half, dtype=np.uint32)
    high = low + np.uint32(half)
    high[count - half :] = 0
    first, second = _hash(key, low, high)
    return np.concatenate([first, second])[:count]


def _split(key: Key) -> tuple[Key, Key]:
    four = [int(word) for word in bits(key, 4)]
    return (four[0], four[1]), (four[2], four[3])


def _hash(key: Key, x: Words, y: Words) -> tuple[Words, Words]:
    """Threefry-2x32 of 20 rounds, modulo 2^32 throughout."""
    schedule = [np.uint32(word) for word in (key[0], key[1], key[0] ^ key[1] ^ _PARITY)]
    x, y = x + schedule[0], y + schedule[1]
    for group in range(5):
        for turn in _TURNS[group % 2]:
            x = x + y
            y = (y << np.uint32(turn)) | (y >> np.uint32(32 - turn))
            y = y ^ x
        # An array's sum wraps silently; a sum of two numpy numbers would warn.
        x, y = x + schedule[(group + 1) % 3], y + schedule[(group + 2) % 3]
        y = y + np.uint32(group + 1)
    return x, y
