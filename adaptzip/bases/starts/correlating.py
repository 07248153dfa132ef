"""Where in a long signal probes are, by correlation in blocks that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 1 << 15
_TOGETHER = 8
"""Blocks that are transformed together: few enough for the processor's caches."""
LONGEST = _BLOCK // 4
"""Numbers in the longest probe."""


class Spectrum:
    """Overlapping blocks of a signal (n + LONGEST,) of unit deviation, transformed once for many probes."""

    def __init__(self, signal: Tensor) -> None:
        self._step = _BLOCK - LONGEST
        self._length = len(signal) - LONGEST
        blocks = -(-self._length // self._step)
        padded = torch.nn.functional.pad(signal, (0, blocks * self._step + LONGEST - len(signal)))
        self._parts = [torch.fft.rfft(part) for part in torch.split(padded.unfold(0, _BLOCK, self._step), _TOGETHER)]

    def strongest(self, probe: Tensor) -> tuple[float, int]:
        """How many deviations above chance the probe (at most `LONGEST`) goes with the signal where it does most.

        Returns:
            The score, and where among the first n numbers the probe's first is.
        """
        padded = torch.nn.functional.pad(probe / torch.linalg.norm(probe), (0, _BLOCK - len(probe)))
        wanted = torch.fft.rfft(padded).conj()
        best = (-1.0, 0)
        for k, part in enumerate(self._parts):
            first = k * _TOGETHER * self._step
            scores = torch.fft.irfft(part * wanted, n=_BLOCK)[:, : self._step].abs().reshape(-1)[: self._length - first]
            at = int(scores.argmax())
            best = max(best, (float(scores[at]), first + at), key=lambda one: one[0])
        return best


def together(probes: Sequence[Tensor]) -> Tensor:
    """Several probes as one, which finds any of them at a score smaller by the root of their number."""
    total = torch.zeros(max(len(probe) for probe in probes))
    for probe in probes:
        total[: len(probe)] += probe / torch.linalg.norm(probe)
    return total
