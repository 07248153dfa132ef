"""Dependent (trellis-coded) quantisation with a 128-state Ungerboeck code.

Two scalar quantisers share one step: quantiser 0 holds the even multiples of the step, quantiser 1 the odd ones and
zero. Which of them codes a number follows from the parities of the levels before it in its tensor, so the pair acts
as a denser quantiser in many dimensions at the rate of a scalar one. The encoder finds the best path by the Viterbi
algorithm on squared error + BIT_WEIGHT * bits (entropy-coded TCQ: Fischer and Wang 1992; the level layout with a zero
in both quantisers is that of dependent quantisation in video coding, Schwarz et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_LEVEL = 2**20
"""Largest level a file may hold; a step that would need more is refused."""

MEMORY = 7
"""Bits of a trellis state."""
STATES = 2**MEMORY
PARITY_CHECK = (0o235, 0o126)
"""Parity-check polynomials h0, h1 of Ungerboeck's 128-state code for one dimension (1987, part II, table I)."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """Levels of a block and the quantiser each was taken from, both (rows, width) int32 and uint8."""

    levels: NDArray[np.int32]
    quantiser: NDArray[np.uint8]

    def values(self) -> NDArray[np.int32]:
        """Reconstructed numbers in units of the step."""
        return values(self.levels, self.quantiser)


def values(levels: NDArray[np.int32], quantiser: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Multiples of the step: 2k under quantiser 0, 2k - sign(k) under quantiser 1."""
    result: NDArray[np.int32] = 2 * levels - np.sign(levels) * quantiser.astype(np.int32)
    return result


def next_states() -> NDArray[np.uint8]:
    """(STATES, 2): the next state by state and parity of the level; the lowest bit of a state is its quantiser.

    This is the code's encoder in observer form: the state moves down by a bit, and the quantiser and the parity are
    fed back through h0 and h1 without their constant terms.
    """
    h0, h1 = PARITY_CHECK
    state = np.arange(STATES)[:, None]
    following = (state >> 1) ^ (state & 1) * (h0 >> 1) ^ np.arange(2) * (h1 >> 1)
    return following.astype(np.uint8)


def predecessors() -> NDArray[np.int64]:
    """(2, STATES): the state before each state, by the parity that led there.

    The first half of the states is entered from quantiser 0 and the second from quantiser 1, because h0 has degree
    MEMORY and h1 a smaller one.
    """
    before = np.empty((2, STATES), dtype=np.int64)
    for parity in (0, 1):
        before[parity, next_states()[:, parity]] = np.arange(STATES)
    return before
