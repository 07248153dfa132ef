"""Where in a long signal probes are, by correlation in blocks that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 1 << 15
LONGEST = _BLOCK // 4
"""Numbers in the longest probe."""


class Spectrum:
    """Overlapping blocks of a signal (n + LONGEST,) of unit deviation, transformed once for many probes."""

    def __init__(self, signal: Tensor) -> None:
        self._step = _BLOCK - LONGEST
        self._length = len(signal) - LONGEST
        blocks = -(-self._length // self._step)
        padded = torch.nn.functional.pad(signal, (0, blocks * self._step + LONGEST - len(signal)))
        self._blocks = torch.fft.rfft(padded.unfold(0, _BLOCK, self._step))

    def strongest(self, probe: Tensor) -> tuple[float, int]:
        """How many deviations above chance the probe (at most `LONGEST`) goes with the signal where it does most.

        Returns:
            The score, and where among the first n numbers the probe's first is.
        """
        padded = torch.nn.functional.pad(probe / torch.linalg.norm(probe), (0, _BLOCK - len(probe)))
        together = torch.fft.irfft(self._blocks * torch.fft.rfft(padded).conj(), n=_BLOCK)
        scores = together[:, : self._step].abs_().reshape(-1)[: self._length]
        at = int(scores.argmax())
        return float(scores[at]), at


def together(probes: Sequence[Tensor]) -> Tensor:
    """Several probes as one, which finds any of them at a score smaller by the root of their number."""
    total = torch.zeros(max(len(probe) for probe in probes))
    for probe in probes:
        total[: len(probe)] += probe / torch.linalg.norm(probe)
    return total
