"""What `adaptzip.bases.starts.threefry` has compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.core.compiled import compiled

_PARITY = np.uint32(0x1BD11BDA)
_TURNS = np.array([[13, 15, 26, 6], [17, 29, 16, 24]], np.uint32)


@compiled
def _hash(first: Any, second: Any, x: Any, y: Any) -> Any:
    """Threefry-2x32 of 20 rounds."""
    schedule = (first, second, np.uint32(first ^ second ^ _PARITY))
    x, y = np.uint32(x + first), np.uint32(y + second)
    for group in range(5):
        for i in range(4):
            turn = _TURNS[group % 2, i]
            x = np.uint32(x + y)
            y = np.uint32(np.uint32(y << turn) | np.uint32(y >> np.uint32(32 - turn))) ^ x
        x = np.uint32(x + schedule[(group + 1) % 3])
        y = np.uint32(y + schedule[(group + 2) % 3] + np.uint32(group + 1))
    return x, y


@compiled
def chain(first: Any, keys: Any) -> None:
    """Put the keys that follow each of some first keys (seeds, 2) into `keys` (seeds, count, 2)."""
    zero, one, two, three = np.uint32(0), np.uint32(1), np.uint32(2), np.uint32(3)
    for seed in range(len(first)):
        a, b = first[seed]
        for i in range(keys.shape[1]):
            low, high = _hash(a, b, zero, two), _hash(a, b, one, three)
            a, b = low[0], high[0]
            keys[seed, i, 0], keys[seed, i, 1] = low[1], high[1]
