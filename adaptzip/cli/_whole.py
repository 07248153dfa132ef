"""One bar over a whole job, whose phases are told one after another, and some of them again and again."""

from __future__ import annotations

from dataclasses import dataclass

_SHARES = {
    "loading the model": 0.02, "asking the teacher": 0.05, "growing": 0.2, "describing": 0.5, "preparing": 0.4,
    "fitting": 0.35, "coding": 0.5, "reference": 0.3,
}  # fmt: skip
"""How much of what is left of the bar a phase takes after which others come, or the same once more; others take all."""
_END = 0.999
"""The bar is full when the work is done, and not before."""


@dataclass
class WholeJob:
    """How much of a job is done, which never becomes less. It remembers what it was told."""

    _share: float = 1.0
    _base: float = 0.0
    _room: float = 0.0
    _done: float = 0.0

    def told(self, phase: str, done: float, total: float) -> float:
        """The share of the whole job, from 0 to less than 1, once `done` of `total` of a phase are done.

        A phase that begins anew, as each pass of a search does, takes a part of what is left.
        """
        share = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
        if share < self._share:
            self._base = self._done
            self._room = (1 - self._base) * _SHARES.get(phase.partition(":")[0], 1.0)
        self._share = share
        self._done = max(self._done, min(self._base + share * self._room, _END))
        return self._done
