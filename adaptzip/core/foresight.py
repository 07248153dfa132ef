"""What a method foresees of many modules at once: ranks, bits and errors at a quantiser step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ranks: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]


class Foresight(Protocol):
    """Ranks and predictions of N modules whose summaries are known, in their order."""

    def ranks(self, step: float) -> Ranks:
        """The rank worth coding of each module at a step, (N,)."""

    def predict(self, step: float, ranks: Ranks, rows: Ranks | None = None) -> tuple[Values, Values]:
        """Expected bits and squared errors of modules coded at these ranks, both of the length of `ranks`.

        Args:
            ranks: of all modules, or of those of `rows`.
            rows: places of the modules that are asked about; all where it is None.
        """

    def frame_gains(self, step: float, most: Ranks | None = None) -> Values:
        """Expected bits that each module's frame saves at a step, errors counted, (N,); 0 without one.

        Args:
            most: ranks of all modules, where they are no larger.
        """


class OneByOne:
    """The foresight of a method that looks at one module at a time."""

    def __init__(self, method: Any, profiles: Sequence[Any]) -> None:
        self._method, self._profiles = method, profiles

    def ranks(self, step: float) -> Ranks:
        found = [self._method.rank(profile, step) for profile in self._profiles]
        # What is no whole number is left for whoever checks ranks to name.
        return np.array(found, np.int64 if all(isinstance(rank, int) for rank in found) else object)

    def predict(self, step: float, ranks: Ranks, rows: Ranks | None = None) -> tuple[Values, Values]:
        profiles = self._profiles if rows is None else [self._profiles[row] for row in rows.tolist()]
        found = [self._method.predict(p, rank, step) for p, rank in zip(profiles, ranks.tolist(), strict=True)]
        both = np.array(found, np.float64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def frame_gains(self, step: float, most: Ranks | None = None) -> Values:
        ranks = [None] * len(self._profiles) if most is None else most.tolist()
        gains = [self._method.frame_gain(p, step, rank) for p, rank in zip(self._profiles, ranks, strict=True)]
        return np.array(gains, np.float64)
