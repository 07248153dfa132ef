"""Gains: what a module's update is multiplied by before it is quantised, and divided by after (formats/adz-1.md)."""

from __future__ import annotations

from math import log2

import numpy as np

STEPS_PER_OCTAVE = 4
LIMIT = 127
_FRACTIONS = np.exp2(-np.arange(STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE).astype(np.float32)
"""2^(-j/4) for j = 0..3, float32."""


def gain_index(gain: float) -> int:
    """The nearest index to a positive gain: index q stands for 2^(q/4)."""
    return max(-LIMIT, min(LIMIT, round(STEPS_PER_OCTAVE * log2(gain))))


def divisor(index: int) -> float:
    """The float32 number 2^(-q/4) that undoes gain q: one of four constants times a power of two."""
    octave, fraction = divmod(index, STEPS_PER_OCTAVE)
    return float(np.ldexp(_FRACTIONS[fraction], -octave))
