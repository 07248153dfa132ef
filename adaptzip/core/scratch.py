"""Memory that a thread uses again and again, for blocks that would otherwise be taken from the system each time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch(threading.local):
    """A thread's buffers by their purpose, each as large as the largest that was asked for; freed with the thread.

    A tensor from here is good until the next one for the same purpose is taken.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, purpose: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A contiguous CPU tensor, whose numbers are whatever was there."""
        size = torch.Size(shape).numel() * dtype.itemsize
        buffer = self._buffers.get(purpose)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[purpose] = torch.empty(size, dtype=torch.uint8)
        return buffer[:size].view(dtype).reshape(*shape)
