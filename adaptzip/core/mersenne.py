"""The raw numbers of MT19937, as torch's CPU generator draws them after `manual_seed`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STATE = 624
_WORD = 0xFFFFFFFF
_AT_ONCE = 1 << 16


class Mersenne:
    """The stream of a seed, which remembers how far it was drawn.

    Seeds count modulo 2^32. The state is filled here rather than by numpy, whose own ways of seeding may change.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937(0)
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": seeded_state(seed), "pos": STATE}}
        self.position = 0

    def skip_to(self, position: int) -> None:
        """Go on to a number, by drawing those before it in bounded pieces."""
        while self.position < position:
            count = min(_AT_ONCE, position - self.position)
            self._bits.random_raw(count, output=False)
            self.position += count

    def draw(self, count: int) -> NDArray[np.uint32]:
        """The next `count` numbers of 32 bits."""
        self.position += count
        raw = np.empty(count, np.uint32)
        for start in range(0, count, _AT_ONCE):
            part = raw[start : start + _AT_ONCE]
            part[:] = self._bits.random_raw(len(part))
        return raw


def seeded_state(seed: int) -> NDArray[np.uint32]:
    """The 624 words that a seed fills the state with."""
    word = seed & _WORD
    words = [word]
    for k in range(1, STATE):
        word = (1812433253 * (word ^ (word >> 30)) + k) & _WORD
        words.append(word)
    return np.array(words, np.uint32)
