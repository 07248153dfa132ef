"""Gains: what a module's update is multiplied by before it is quantised, and divided by after (formats/adz-1.md)."""

from __future__ import annotations

from math import ldexp, log2

import numpy as np

STEPS_PER_OCTAVE = 4
LIMIT = 127
_FRACTIONS = np.array([0x3F800000, 0x3F5744FD, 0x3F3504F3, 0x3F1837F0], np.uint32).view(np.float32).tolist()
"""2^(-j/4) for j = 0..3, float32, bit for bit as the format has them."""


def gain_index(gain: float) -> int:
    """The nearest index to a positive gain: index q stands for 2^(q/4)."""
    return max(-LIMIT, min(LIMIT, round(STEPS_PER_OCTAVE * log2(gain))))


def divisor(index: int) -> float:
    """The float32 number 2^(-q/4) that undoes gain q: one of four constants times a power of two."""
    octave, fraction = divmod(index, STEPS_PER_OCTAVE)
    return ldexp(_FRACTIONS[fraction], -octave)
