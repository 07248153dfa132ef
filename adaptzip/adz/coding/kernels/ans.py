"""The entropy coder's state: symbols put on it and taken off (formats/adz-1.md, 5.1 to 5.3).

Words lie on a stack of which `count` are left. Parts of the state are unsigned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.core.compiled import compiled

PRECISION = np.uint64(24)
WHOLE = np.uint64(2**24)
MASK = np.uint64(2**24 - 1)
WORD = np.uint64(32)
LOW = np.uint64(2**32 - 1)
_HIGHEST = np.uint64(64 - 24)
_LEAST = np.uint64(2**32)


@compiled
def push(state: Any, left: Any, share: Any, words: Any, count: Any) -> Any:
    """Encode a symbol whose interval begins at `left` and is `share` wide."""
    if (state >> _HIGHEST) >= share:
        words[count] = np.uint32(state & LOW)
        count += 1
        state >>= WORD
    high = state // share
    return (high << PRECISION) + (state - high * share) + left, count


@compiled
def uniform(number: Any, size: Any) -> Any:
    """Where the interval of a number below `size`, of at least 2, begins, and how wide it is."""
    share = WHOLE // np.uint64(size)
    left = share * np.uint64(number)
    return left, WHOLE - left if number == size - 1 else share


@compiled
def push_uniform(state: Any, number: Any, size: Any, words: Any, count: Any) -> Any:
    if size <= 1:
        return state, count
    left, share = uniform(number, size)
    return push(state, left, share, words, count)


@compiled
def pop(state: Any, left: Any, share: Any, words: Any, begin: Any, count: Any) -> Any:
    """Take a symbol's interval off the state; words at `begin` and before are not this stack's."""
    state = (state >> PRECISION) * share + (state & MASK) - left
    more = (state < _LEAST) & (count > begin)
    refilled = (state << WORD) | np.uint64(words[count])
    return refilled if more else state, count - more


@compiled
def pop_uniform(state: Any, size: Any, words: Any, begin: Any, count: Any) -> Any:
    if size <= 1:
        return 0, state, count
    number = min((state & MASK) // (WHOLE // np.uint64(size)), np.uint64(size - 1))
    left, share = uniform(np.int64(number), size)
    state, count = pop(state, left, share, words, begin, count)
    return np.int64(number), state, count
