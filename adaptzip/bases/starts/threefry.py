"""MLX's random numbers: Threefry-2x32 keyed by a seed, a new key for each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from adaptzip.core import compiled

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
    for key in keys_of(np.array([first_key(seed)], np.uint32)):
        yield int(key[0, 0]), int(key[0, 1])


def keys_of(state: Words) -> Iterator[Words]:
    """The same of many seeds at once, whose first keys (seeds, 2) are given: (seeds, 2) each time."""
    low, high = np.array([[0, 1]], np.uint32), np.array([[2, 3]], np.uint32)
    while True:
        first, second = _rounds(_schedule(state), low, high)
        state = first
        yield second


def first_keys(state: Words, count: int) -> Words:
    """The first `count` keys after each of many first keys (seeds, 2): (seeds, count, 2)."""
    if not compiled.available():
        return np.stack(list(islice(keys_of(state), count)), axis=1)
    from adaptzip.bases.starts.kernels import chain

    found = np.empty((len(state), count, 2), np.uint32)
    chain(state, found)
    return found


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


def some_bits(many: Words, count: int, hashes: int) -> tuple[NDArray[np.int64], Words]:
    """A few of the numbers that each of many keys (keys, 2) makes of `count`: the first hashes' both words.

    Returns:
        Which numbers (2 * hashes,), and their values (keys, 2 * hashes).
    """
    half = (count + 1) // 2
    low = np.arange(hashes, dtype=np.uint32)
    first, second = _rounds(_schedule(many), low[None], low[None] + np.uint32(half))
    return np.concatenate([low, low + half]).astype(np.int64), np.concatenate([first, second], axis=1)


def _hash(key: Key, x: Words, y: Words) -> tuple[Words, Words]:
    first, second = _rounds(_schedule(np.array([key], np.uint32)), x[None], y[None])
    return first[0], second[0]


def _schedule(many: Words) -> Sequence[Words]:
    """The three words (keys, 1) of each of many keys (keys, 2) that are added in turn."""
    return many[:, :1], many[:, 1:], many[:, :1] ^ many[:, 1:] ^ np.uint32(_PARITY)


def _rounds(schedule: Sequence[Words], x: Words, y: Words) -> tuple[Words, Words]:
    """Threefry-2x32 of 20 rounds, modulo 2^32 throughout: sums of arrays wrap silently."""
    x, y = x + schedule[0], y + schedule[1]
    for group in range(5):
        for turn in _TURNS[group % 2]:
            x += y
            y = (y << np.uint32(turn)) | (y >> np.uint32(32 - turn))
            y ^= x
        x += schedule[(group + 1) % 3]
        y += schedule[(group + 2) % 3]
        y += np.uint32(group + 1)
    return x, y
